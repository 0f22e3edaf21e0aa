"""What handlers and actors say to each other: frozen messages in the imperative, and the records that answer them.

A module for each subject. A message that wants an answer of type ``R`` is an ``Ask[R]``. Nothing here does anything;
both sides of every conversation can be read from these pages.
"""
