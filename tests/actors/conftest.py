"""An authority for certificates of receivers on loopback, and those who trust it."""

from __future__ import annotations

import ssl

import pytest
import trustme


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def trusting(authority: trustme.CA) -> ssl.SSLContext:
    """What the service would have, if it trusted the tests' authority."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context
