"""Actors own state: each is one task that reads one bounded mailbox, kept alive by a supervisor."""
