"""uvicorn as the BFF needs it."""
