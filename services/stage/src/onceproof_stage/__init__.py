"""Consume, transform, produce: orders become payment requests inside Kafka transactions."""
