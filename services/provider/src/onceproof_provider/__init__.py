"""The payment provider: a ledger of its own behind an Idempotency-Key."""
