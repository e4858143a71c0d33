"""The service mesh: requests, commands and events in NuroPb messages over RabbitMQ."""
