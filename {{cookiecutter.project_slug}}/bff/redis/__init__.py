"""Access to Redis: one client for each kind of server, and commands that share round trips."""
