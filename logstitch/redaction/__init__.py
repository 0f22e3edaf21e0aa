"""Redaction as a pure engine: rules in, a redacted event and the record of what was redacted out."""
