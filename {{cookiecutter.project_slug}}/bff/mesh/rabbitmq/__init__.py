"""The mesh on RabbitMQ: supervised connections, and the queues of event handlers and services."""
