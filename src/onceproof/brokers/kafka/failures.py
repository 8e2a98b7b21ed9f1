"""What a Kafka error means for the caller: who is away, what is missing, what was refused."""

from __future__ import annotations

from typing import Final

from confluent_kafka import KafkaError, KafkaException

from onceproof.errors import BrokerUnavailableError, OnceproofError, QueueNotFoundError

UNKNOWN: Final = "outcome unknown: "
"""Prefix of the error text of a record that may have been written."""

_NO_TOPIC: Final = frozenset(
    {
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError._UNKNOWN_TOPIC,  # noqa: SLF001 - the client's own codes begin with an underscore
        KafkaError._UNKNOWN_PARTITION,  # noqa: SLF001
    }
)
_REFUSED: Final = {
    KafkaError.GROUP_AUTHORIZATION_FAILED: "the user may not read in this consumer group",
    KafkaError.TOPIC_AUTHORIZATION_FAILED: "the user may not use this topic",
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: "the user may not do this on the cluster",
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED: "the user may not use this transactional id",
    KafkaError.SASL_AUTHENTICATION_FAILED: "user or password is wrong",
    KafkaError._AUTHENTICATION: "user or password is wrong",  # noqa: SLF001
    KafkaError.INVALID_SESSION_TIMEOUT: (
        "the broker does not take this session timeout; see its group.min.session.timeout.ms"
    ),
}
_NOT_OURS: Final = frozenset(
    {
        KafkaError.ILLEGAL_GENERATION,
        KafkaError.UNKNOWN_MEMBER_ID,
        KafkaError.FENCED_INSTANCE_ID,
        KafkaError._ASSIGNMENT_LOST,  # noqa: SLF001
    }
)
_MOVES: Final = frozenset(
    {
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.NOT_COORDINATOR,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    }
)
_MAY_BE_WRITTEN: Final = frozenset(
    {
        KafkaError._MSG_TIMED_OUT,  # noqa: SLF001
        KafkaError._TIMED_OUT,  # noqa: SLF001
        KafkaError._PURGE_INFLIGHT,  # noqa: SLF001
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError.NETWORK_EXCEPTION,
        KafkaError.NOT_ENOUGH_REPLICAS_AFTER_APPEND,
    }
)


def error_of(raised: BaseException) -> KafkaError | None:
    """The client's error in an exception that it raised."""
    if (
        isinstance(raised, KafkaException)
        and raised.args
        and isinstance(raised.args[0], KafkaError)
    ):
        return raised.args[0]
    return None


def is_missing_topic(error: KafkaError) -> bool:
    """Whether the topic does not exist."""
    return error.code() in _NO_TOPIC


def is_not_ours(error: KafkaError) -> bool:
    """Whether the partition belongs to another member by now."""
    return error.code() in _NOT_OURS


def moves(raised: BaseException) -> bool:
    """Whether a leader or coordinator is just being found or loaded; the client does not ask again."""
    error = error_of(raised)
    return error is not None and error.code() in _MOVES


def is_refused(error: KafkaError) -> bool:
    """Whether it stays so until somebody changes rights or settings."""
    return error.code() in _REFUSED


def describe(error: KafkaError) -> str:
    """One line for people, with what to do where that is known."""
    told = _REFUSED.get(error.code())
    if told is not None:
        return f"{error.name()}: {told}"
    return f"broker unavailable: {error.name()}: {error.str()}"


def told(raised: KafkaException) -> str:
    """One line for people about what a call of the client raised."""
    error = error_of(raised)
    return describe(error) if error is not None else str(raised)


def send_error(error: KafkaError, topic: str) -> str:
    """The text for `SendResult.error`."""
    if is_missing_topic(error):
        return f"topic {topic!r} does not exist"
    if error.code() == KafkaError.MSG_SIZE_TOO_LARGE:
        return f"not sent: larger than the broker takes: {error.str()}"
    prefix = UNKNOWN if error.code() in _MAY_BE_WRITTEN else ""
    return prefix + describe(error)


def translated(raised: BaseException, topic: str) -> OnceproofError:
    """The library's exception for a failed call; raise it `from` the original."""
    error = error_of(raised)
    if error is None:
        return BrokerUnavailableError(f"Kafka topic {topic!r}: {raised}")
    if is_missing_topic(error):
        return QueueNotFoundError(
            f"topic {topic!r} does not exist; create it, or correct its name. Nothing here creates "
            "topics by itself: their partitions and retention are decisions"
        )
    return BrokerUnavailableError(f"Kafka topic {topic!r}: {describe(error)}")
