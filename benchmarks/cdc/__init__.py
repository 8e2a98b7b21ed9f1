"""Change data capture beside polling: latency, load, bursts, recovery, and a relay that stands.

All relays are the services that are deployed, with their defaults, as processes of their own.
"""
