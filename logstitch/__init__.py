"""LogStitch: a self-hosted audit log for SaaS companies."""

__version__ = "0.1.0"
