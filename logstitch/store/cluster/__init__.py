"""The server that the service brings along: where its data is, who it runs as, how it is made and found."""
