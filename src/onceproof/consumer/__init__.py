"""The consumer: receives in batches, runs a handler in one transaction with its inbox claim, acks."""

from onceproof.consumer.consumer import Consumer
from onceproof.consumer.effect import SqlEffect
from onceproof.consumer.handler import BatchHandler, Handler
from onceproof.consumer.settings import ConsumerSettings

__all__ = ["BatchHandler", "Consumer", "ConsumerSettings", "Handler", "SqlEffect"]
