"""Moves outbox rows to the broker."""
