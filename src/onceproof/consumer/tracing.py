"""A consumer's spans: which deliveries it was given, and what became of each.

Whoever asks later why a message came again has nothing but these: the broker keeps no record, and a
consumer that died cannot be asked. So a delivery that is let go or given back leaves a span as well.
"""

from __future__ import annotations

from collections.abc import Sequence

from opentelemetry.trace import INVALID_SPAN, NonRecordingSpan, Span

from onceproof.brokers.dead_letter import ORIGINAL_ID
from onceproof.consumer.inflight import InHand
from onceproof.consumer.settings import ConsumerSettings
from onceproof.telemetry import (
    BATCH_COUNT,
    DEAD_LETTERED_AS,
    DELIVERY_ATTEMPT,
    EVENT_ID,
    FIRST_RECEIVED_AT,
    HEARTBEAT_S,
    KAFKA,
    LAPSED_SPAN,
    MESSAGE_ID,
    ORDER_ID,
    RECEIVE_COUNT,
    RECEIVE_NUMBER,
    REDRIVE,
    RELEASED_FOR_S,
    RELEASED_SPAN,
    STATE,
    STOPPED_SPAN,
    VISIBILITY_S,
    SpanKind,
    describe_messages,
    link_to,
    messaging_span,
    record_moment,
    recording,
)

Attributes = dict[str, str | int | float]


def identity(item: InHand) -> Attributes:
    """What names a delivery in every span about it."""
    delivery = item.delivery
    return {
        EVENT_ID: delivery.event.id,
        ORDER_ID: delivery.event.key or "",
        MESSAGE_ID: delivery.message.message_id,
        DELIVERY_ATTEMPT: delivery.attempt,
    }


def in_hand(item: InHand) -> Attributes:
    """A delivery as it is at this moment."""
    return identity(item) | {STATE: item.state.value, RECEIVE_NUMBER: item.receive}


def received(
    settings: ConsumerSettings,
    queue: str,
    items: Sequence[InHand],
    *,
    count: int,
    number: int,
    since_ns: int,
) -> None:
    """The span of a receive request that brought messages.

    Args:
        settings: of the consumer.
        queue: where they came from.
        items: those that are events.
        count: all of them.
        number: of the request among those that brought messages, from 1.
        since_ns: when the request was made, in Unix nanoseconds.
    """
    if not recording():
        return
    beats = settings.fixes.visibility_heartbeat
    span = messaging_span(
        settings.system,
        "poll" if settings.system == KAFKA else "receive",
        "receive",
        queue,
        kind=SpanKind.CLIENT,
        links=[link for item in items for link in link_to(item.created, identity(item))],
        attributes={
            BATCH_COUNT: count,
            RECEIVE_NUMBER: number,
            VISIBILITY_S: settings.visibility_s,
            HEARTBEAT_S: settings.heartbeat_interval_s if beats else 0.0,
        },
        start_time_ns=since_ns,
    )
    describe_messages(span, (identity(item) | _broker_words(item) for item in items))
    span.end()


def handling(
    settings: ConsumerSettings, queue: str, items: Sequence[InHand], *, calls_out: bool = True
) -> list[Span]:
    """Start the spans of handling deliveries, one for each.

    Args:
        settings: of the consumer.
        queue: where they came from.
        items: the deliveries.
        calls_out: somebody's code may pass the events' trace on, also where nothing is recorded.
    """
    if recording():
        return [_handling(settings, queue, item) for item in items]
    if not calls_out:
        return [INVALID_SPAN] * len(items)
    return [NonRecordingSpan(item.created) if item.created else INVALID_SPAN for item in items]


def _handling(settings: ConsumerSettings, queue: str, item: InHand) -> Span:
    return messaging_span(
        settings.system,
        "process",
        "process",
        queue,
        kind=SpanKind.CONSUMER,
        parent=item.created,
        links=link_to(item.created),
        attributes=identity(item) | _broker_words(item) | {RECEIVE_NUMBER: item.receive},
    )


def lapsed(item: InHand) -> None:
    """A delivery was let go before its turn, because somebody else may have it by now."""
    record_moment(LAPSED_SPAN, item.created, identity(item) | {RECEIVE_NUMBER: item.receive})


def released(item: InHand, delay_s: float) -> None:
    """A delivery was given back, to be made again after `delay_s` seconds."""
    told = identity(item) | {RECEIVE_NUMBER: item.receive, RELEASED_FOR_S: delay_s}
    record_moment(RELEASED_SPAN, item.created, told)


def stopped(receives: int) -> None:
    """A consumer has ended by itself, after so many receives that brought messages."""
    record_moment(STOPPED_SPAN, None, {RECEIVE_COUNT: receives})


def _broker_words(item: InHand) -> Attributes:
    """What the broker knows about the message's past."""
    message = item.message
    words: Attributes = {}
    if message.first_received_at is not None:
        words[FIRST_RECEIVED_AT] = message.first_received_at.timestamp()
    if original := message.attributes.get(ORIGINAL_ID):
        words[DEAD_LETTERED_AS] = original
    if redrive := message.attributes.get(REDRIVE):
        words[REDRIVE] = redrive
    return words
