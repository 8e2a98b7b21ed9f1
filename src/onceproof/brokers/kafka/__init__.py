"""Kafka through confluent-kafka: partitions and key order, and a group instead of receipts.

Needs the extra `onceproof[kafka]`.
"""

from onceproof.brokers.kafka.broker import KafkaBroker
from onceproof.brokers.kafka.settings import KafkaSettings, TopicPolicy
from onceproof.brokers.kafka.stage import FencedError, Stage, StageSettings, stage_group

__all__ = [
    "FencedError",
    "KafkaBroker",
    "KafkaSettings",
    "Stage",
    "StageSettings",
    "TopicPolicy",
    "stage_group",
]
