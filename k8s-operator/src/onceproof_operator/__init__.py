"""Kubernetes operator: deletes pods at traced crash points, and counts the charges."""
