"""What recording an event means, for whoever does it: ingest, changes of rules, claims of streams.

``preparation`` makes of an event a row that lacks only its numbers, ``admission`` decides over idempotency keys, and
``commit`` gives out the numbers in the one transaction that stores a group.
"""
