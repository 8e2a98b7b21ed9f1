"""The order API: one transaction for order, outbox row and stored response."""
