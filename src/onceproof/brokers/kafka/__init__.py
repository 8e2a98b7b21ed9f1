"""Kafka through confluent-kafka: partitions and key order, and a group instead of receipts.

Needs the extra `onceproof[kafka]`.
"""

from onceproof.brokers.kafka.broker import KafkaBroker
from onceproof.brokers.kafka.settings import KafkaSettings, TopicPolicy

__all__ = ["KafkaBroker", "KafkaSettings", "TopicPolicy"]
