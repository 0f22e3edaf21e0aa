"""Each section of an event is serialized once, canonically, and everything else is spliced from those bytes.

The commitment, the stored body and the answer to a reader must be made of the very same bytes; serializing twice would
be slower and would leave room for the two to differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import orjson

from logstitch.jcs import canonical

__all__ = ["canonical", "encode_sections"]

# Together, and in this order, they are ``SECTIONS``.
_STRINGS_ONLY: Final = ("actor", "target", "context")
_ANY_JSON: Final = ("metadata", "changes")


def encode_sections(event: Mapping[str, object]) -> dict[str, bytes]:
    """The canonical bytes of every section that a validated event has, in the order of ``SECTIONS``."""
    sections = {}
    # By the schema, and redaction keeps to it, these hold nothing but strings: there is no float to look for.
    for name in _STRINGS_ONLY:
        if (section := event.get(name)) is not None:
            text = orjson.dumps(section, option=orjson.OPT_SORT_KEYS)
            sections[name] = text if text.isascii() else canonical(section, floats=False)
    for name in _ANY_JSON:
        if (section := event.get(name)) is not None:
            sections[name] = canonical(section)
    return sections
