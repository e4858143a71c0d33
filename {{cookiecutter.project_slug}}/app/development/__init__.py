"""Stand-ins for the services behind the BFF, for `make dev`."""
