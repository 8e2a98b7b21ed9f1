"""Brokers behind `onceproof.ports`: SQS (`onceproof.brokers.sqs`) and one in memory for unit tests.

The SQS adapter needs the extra `onceproof[sqs]` and is imported from its own module, so that a
service on another broker does not load it.
"""

from onceproof.brokers.memory import MemoryBroker, MemorySubscriber

__all__ = ["MemoryBroker", "MemorySubscriber"]
