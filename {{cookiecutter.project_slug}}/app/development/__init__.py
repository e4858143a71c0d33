"""Stand-ins for mesh services, for `make dev`."""
