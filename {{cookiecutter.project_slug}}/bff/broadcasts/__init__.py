"""Admin broadcasts: stored in the database, sent, and retained for later connections."""
