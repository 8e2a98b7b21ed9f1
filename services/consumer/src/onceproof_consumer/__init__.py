"""Charges each order once at the payment provider."""
