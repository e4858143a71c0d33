"""The development page, which is mounted in development only."""
