"""HTTP: everything between bytes on a socket and messages to actors."""
