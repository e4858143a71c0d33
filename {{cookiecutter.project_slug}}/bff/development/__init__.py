"""What is only there in development: the page and the example service."""
