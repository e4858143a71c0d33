"""Authentication of browsers: tokens, tickets and origins."""
