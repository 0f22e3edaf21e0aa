"""Egress: one request to an address that a customer named, and no way from there to what it must not reach."""
