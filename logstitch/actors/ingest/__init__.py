"""Ingest: one actor a project that takes what is queued, prepares it, and stores it a group at a time."""

from logstitch.actors.ingest.actor import Ingest

__all__ = ["Ingest"]
