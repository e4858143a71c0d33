"""uvicorn with HTTP and WebSocket protocol classes of the BFF."""
