"""The same connections seen across instances, on Redis."""
