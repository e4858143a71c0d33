"""The connections of this instance, their frames and transports. Independent of Redis and AMQP."""
