"""What a Kafka error means for the caller."""

from __future__ import annotations

import pytest
from confluent_kafka import KafkaError, KafkaException

from onceproof.brokers.kafka.failures import moves, translated
from onceproof.errors import BrokerUnavailableError, QueueNotFoundError


def raised(code: int) -> KafkaException:
    return KafkaException(KafkaError(code))


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (raised(KafkaError.NOT_COORDINATOR), True),
        (raised(KafkaError.NOT_LEADER_FOR_PARTITION), True),
        (raised(KafkaError.COORDINATOR_LOAD_IN_PROGRESS), True),
        (raised(KafkaError.COORDINATOR_NOT_AVAILABLE), True),
        (raised(KafkaError.GROUP_AUTHORIZATION_FAILED), False),
        (raised(KafkaError.UNKNOWN_TOPIC_OR_PART), False),
        (KafkaException("no code"), False),
        (TimeoutError(), False),
    ],
)
def test_who_is_just_being_found_is_asked_again(error: Exception, *, passes: bool) -> None:
    assert moves(error) is passes


def test_a_missing_topic_is_told_from_a_broker_that_is_away() -> None:
    assert isinstance(translated(raised(KafkaError.UNKNOWN_TOPIC_OR_PART), "t"), QueueNotFoundError)
    for error in (raised(KafkaError.NOT_COORDINATOR), TimeoutError("no answer")):
        assert isinstance(translated(error, "t"), BrokerUnavailableError)
