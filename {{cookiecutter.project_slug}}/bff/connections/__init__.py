"""This instance's sockets. Knows no Redis and no AMQP."""
