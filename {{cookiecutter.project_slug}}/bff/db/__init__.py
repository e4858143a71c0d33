"""SQLModel tables and async sessions."""
