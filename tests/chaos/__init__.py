"""Breaks a whole deployment on purpose, and checks what its clients were told."""
