"""Redis: one client, its connections, and commands that share round trips."""
