"""Connections, messages and presence across all instances, on Redis."""
