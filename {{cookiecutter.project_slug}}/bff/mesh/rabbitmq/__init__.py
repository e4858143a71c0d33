"""The mesh on RabbitMQ: supervised connections, and the queues of events and services."""
