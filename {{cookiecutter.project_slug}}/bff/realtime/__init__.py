"""The application protocol: what browsers and services may call, and the handlers that answer."""
