"""One dead letter: the message, what is known of its event, and why it is here."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from onceproof.brokers.dead_letter import ORIGINAL_ID, REASON
from onceproof.errors import MalformedEventError
from onceproof.events import MAX_EVENT_BYTES, Event
from onceproof.ports import Message, Outgoing
from onceproof.telemetry import REDRIVE

NO_REASON: Final = "moved by the broker after too many deliveries; no reason recorded"
_MOST_ATTRIBUTES: Final = 8
"""Brokers take ten; two are for the reason, should the message be rejected again."""
_ATTRIBUTE_OVERHEAD: Final = 16


@dataclass(frozen=True, slots=True)
class Letter:
    """A message of a DLQ, parsed.

    Args:
        message: as it was delivered.
        event: None when the body is not an event.
        problem: why it is not an event.
        born: the earliest moment at which the event can have been processed; None when nobody
            knows, because the event names no time.
    """

    message: Message
    event: Event | None
    problem: str | None
    born: datetime | None

    @classmethod
    def of(cls, message: Message) -> Letter:
        """Parse a message; never raises."""
        try:
            event = Event.decode(message.body)
        except MalformedEventError as error:
            return cls(message, None, str(error), message.sent_at)
        if json.loads(message.body).get("time") is None:
            return cls(message, event, None, None)  # decode puts in the present moment
        # A producer whose clock is ahead must not make an event younger than its message.
        return cls(message, event, None, min(event.time, message.sent_at or event.time))

    @property
    def id(self) -> str:
        """The broker's id of the message."""
        return self.message.message_id

    @property
    def event_id(self) -> str | None:
        """The event's id, where it is one."""
        return self.event.id if self.event else None

    @property
    def key(self) -> str | None:
        """The event's key, e.g. the order."""
        return self.event.key if self.event else None

    @property
    def reason(self) -> str:
        """Why the message is in the DLQ."""
        return self.message.attributes.get(REASON) or self.problem or NO_REASON

    def age_s(self, now: datetime) -> float | None:
        """Seconds since the event happened."""
        return (now - self.born).total_seconds() if self.born else None

    def answers_to(self, name: str) -> bool:
        """Whether `name` is the id of the message (here or in the source queue) or event, or its key."""
        original = self.message.attributes.get(ORIGINAL_ID)
        return name in {self.id, self.event_id, self.key, original}

    def copy(self, redrive: str) -> Outgoing:
        """The message to send again: the same bytes, under the key of its event.

        An attribute names the redrive, so that a trace can tell where the message came from. The id
        here is that of the dead letter, not of the event: a FIFO queue would take the event's for a
        repetition of the first send, confirm it and drop it, and the event would be lost.
        """
        attributes = {
            name: value
            for name, value in self.message.attributes.items()
            if name not in {REASON, ORIGINAL_ID, REDRIVE}
        }
        size = len(self.message.body) + sum(
            len(n) + len(v.encode()) + _ATTRIBUTE_OVERHEAD for n, v in attributes.items()
        )
        marker = len(REDRIVE) + len(redrive) + _ATTRIBUTE_OVERHEAD
        if len(attributes) < _MOST_ATTRIBUTES and size + marker <= MAX_EVENT_BYTES:
            attributes[REDRIVE] = redrive
        return Outgoing(self.id, self.message.body, self.key, attributes)

    def as_json(self, *, body: bool = True) -> dict[str, Any]:
        """As JSON types; the body as text, or in base64 where it is none."""
        message, event = self.message, self.event
        document: dict[str, Any] = {
            "message_id": message.message_id,
            "event_id": self.event_id,
            "type": event.type if event else None,
            "key": self.key,
            "born": self.born.isoformat() if self.born else None,
            "sent_at": message.sent_at.isoformat() if message.sent_at else None,
            "receives": message.attempt,
            "reason": self.reason,
            "malformed": self.problem,
            "attributes": dict(message.attributes),
        }
        if body:
            try:
                document["body"] = message.body.decode()
            except UnicodeDecodeError:
                document["body_base64"] = base64.b64encode(message.body).decode()
        return document
