"""What a viewer token is, and what its holder is shown."""
