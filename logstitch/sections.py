"""The sections of an event: what redaction scans, and what is committed one by one. All else is the event's own fields.

They stand apart from the schema in ``model``, which child processes have no need to load.
"""

from __future__ import annotations

from typing import Final

SECTIONS: Final = ("actor", "target", "context", "metadata", "changes")
"""In the order in which their salts are stored. It belongs to the format of what is stored, and never changes."""
