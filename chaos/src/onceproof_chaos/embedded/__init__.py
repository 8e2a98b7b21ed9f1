"""Postgres, SQS and Kafka for a laptop without Docker, each a real server in a process of its own."""

from onceproof_chaos.embedded.kafka import EmbeddedKafka
from onceproof_chaos.embedded.postgres import EmbeddedPostgres
from onceproof_chaos.embedded.sqs_process import EmbeddedSqs

__all__ = ["EmbeddedKafka", "EmbeddedPostgres", "EmbeddedSqs"]
