"""Clients of the sinks and sources outside of Kafka: they move bytes and wait; models/ decides what each answer means."""
