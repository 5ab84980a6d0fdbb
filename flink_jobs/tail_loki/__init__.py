"""Follows an existing Loki into a Kafka topic: no gap, no double."""
