"""A socket's conversation: what a browser may ask, and who answers."""
