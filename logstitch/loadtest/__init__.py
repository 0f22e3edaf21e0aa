"""A load test that does not believe the service: it keeps a ledger of what was acknowledged and reads it back."""
