"""An event is one CloudEvents 1.0 JSON object in structured mode, the same bytes on every broker.

Why structured: what a broker carries beside the body differs (SQS message attributes, Kafka headers,
nothing at all from Debezium's SQS sink), so id, key and trace context travel inside the body.
Source: CloudEvents 1.0.2, JSON event format, and its distributed-tracing extension.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import uuid_utils

from onceproof.errors import EventTooLargeError, MalformedEventError

ORDER_PLACED: Final = "dev.onceproof.order.placed"

MAX_EVENT_BYTES: Final = 256 * 1024
"""Largest encoded event in bytes: what every SQS implementation accepts."""
MAX_ATTRIBUTE_CHARS: Final = 255

_DECODER: Final = json.JSONDecoder()

_CONTEXT: Final = frozenset(
    {"specversion", "id", "source", "type", "subject", "time", "datacontenttype", "data"}
)


def new_event_id() -> str:
    """A UUIDv7 as text: ordered by time, so that inbox and outbox indexes grow at their right end."""
    return str(uuid_utils.uuid7())


@dataclass(frozen=True, slots=True)
class Event:
    """What happened, under the identity that deduplication relies on.

    Args:
        type: reverse-DNS name of what happened, e.g. `dev.onceproof.order.placed`.
        data: JSON-serialisable payload.
        key: ordering key and CloudEvents `subject`, e.g. the order's id. None: no order to keep.
        source: URI reference of the context in which it happened.
        id: identity of the event. Made once, when the event enters the outbox, and never again.
        time: when it happened (UTC).
        traceparent: W3C trace context of the moment in which it was created.
        extensions: further CloudEvents attributes, names in lower case.
    """

    type: str
    data: Any
    key: str | None = None
    source: str = "/onceproof"
    id: str = field(default_factory=new_event_id)
    time: datetime = field(default_factory=lambda: datetime.now(UTC))
    traceparent: str | None = None
    extensions: Mapping[str, str] = field(default_factory=dict)

    def encode(self) -> bytes:
        """The event as UTF-8 JSON.

        Raises:
            EventTooLargeError: beyond `MAX_EVENT_BYTES`.
            MalformedEventError: an attribute that `decode` would refuse. Better the caller's
                transaction fails than that every consumer rejects what it committed.
        """
        for name, value in (("id", self.id), ("source", self.source), ("type", self.type)):
            _required({name: value}, name)
        _optional({"subject": self.key}, "subject")
        clash = _CONTEXT.intersection(self.extensions)
        if clash:
            raise MalformedEventError(f"extensions cannot be named {', '.join(sorted(clash))}")
        document: dict[str, Any] = {
            "specversion": "1.0",
            "id": self.id,
            "source": self.source,
            "type": self.type,
        }
        if self.key is not None:
            document["subject"] = self.key
        document["time"] = self.time.isoformat()
        document["datacontenttype"] = "application/json"
        if self.traceparent is not None:
            document["traceparent"] = self.traceparent
        document.update(self.extensions)
        document["data"] = self.data
        body = json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
        if len(body) > MAX_EVENT_BYTES:
            raise EventTooLargeError(
                f"event {self.id} is {len(body)} bytes; brokers accept {MAX_EVENT_BYTES}. "
                "Store the payload elsewhere and send a reference to it."
            )
        return body

    @classmethod
    def decode(cls, body: bytes) -> Event:
        """Parse what `encode` or any CloudEvents producer wrote.

        Raises:
            MalformedEventError: with the reason that a person reading the DLQ needs.
        """
        try:
            if body[:1] == b"{" and body[1:2] != b"\x00":
                # As `json.loads` would, which first has to find out that it is UTF-8.
                document = _DECODER.decode(body.decode("utf-8", "surrogatepass"))
            else:
                document = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise MalformedEventError(f"not JSON: {error}") from None
        if not isinstance(document, dict):
            raise MalformedEventError(f"not a JSON object but {type(document).__name__}")
        if document.get("specversion") != "1.0":
            raise MalformedEventError("not a CloudEvents 1.0 event: no specversion 1.0")
        extensions = {name: str(value) for name, value in document.items() if name not in _CONTEXT}
        return cls(
            id=_required(document, "id"),
            source=_required(document, "source"),
            type=_required(document, "type"),
            key=_optional(document, "subject"),
            time=_time(document.get("time")),
            traceparent=extensions.pop("traceparent", None),
            extensions=extensions,
            data=document.get("data"),
        )


def _required(document: Mapping[str, Any], name: str) -> str:
    value = document.get(name)
    if type(value) is str and 0 < len(value) <= MAX_ATTRIBUTE_CHARS and value.isprintable():
        return value
    if not isinstance(value, str) or not value:
        raise MalformedEventError(f"attribute {name!r} is missing or not a string")
    return _checked(name, value)


def _optional(document: Mapping[str, Any], name: str) -> str | None:
    value = document.get(name)
    if value is None:
        return None
    if not isinstance(value, str):
        raise MalformedEventError(f"attribute {name!r} is not a string")
    return _checked(name, value)


def _checked(name: str, value: str) -> str:
    if len(value) > MAX_ATTRIBUTE_CHARS:
        raise MalformedEventError(f"attribute {name!r} is longer than {MAX_ATTRIBUTE_CHARS}")
    # Postgres text cannot hold NUL, and a lone surrogate cannot be encoded: neither may reach the
    # inbox, where it would fail as a database error and be retried.
    if not value.isprintable():
        raise MalformedEventError(f"attribute {name!r} contains control characters")
    return value


def _time(value: object) -> datetime:
    if value is None:
        return datetime.now(UTC)
    if not isinstance(value, str):
        raise MalformedEventError("attribute 'time' is not a string")
    try:
        parsed = datetime.fromisoformat(value)
    except ValueError:
        raise MalformedEventError("attribute 'time' is not an RFC 3339 timestamp") from None
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)
