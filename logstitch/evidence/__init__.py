"""Evidence: what makes a stored event provable. Pure: values in, bytes out; no clock, no randomness, no storage.

``canonical`` fixes one spelling of JSON, ``commitments`` binds an event to one hash without binding the hash to
personal data, ``merkle`` binds the hashes of a tenant to one root.
"""
