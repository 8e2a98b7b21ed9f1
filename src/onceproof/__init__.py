"""Charge every order once, and prove it."""
