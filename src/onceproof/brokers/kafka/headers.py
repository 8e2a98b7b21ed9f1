"""A record's headers: the message's attributes, and what a retry carries with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from onceproof.ports import Message

DELIVERIES: Final = "onceproof.deliveries"
"""Header of a record in the retry topic: deliveries so far."""
RETRY_OF: Final = "onceproof.retry_of"
"""Header of a record in the retry topic: the id that the message had from the first, and keeps."""
NOT_BEFORE: Final = "onceproof.not_before"
"""Header of a record in the retry topic: milliseconds since 1970 before which it is not delivered."""
_OURS: Final = frozenset({DELIVERIES, RETRY_OF, NOT_BEFORE})


@dataclass(frozen=True, slots=True)
class Retry:
    """What a record of the retry topic says of itself; elsewhere nothing and zero."""

    message_id: str = ""
    deliveries: int = 0
    not_before_s: float = 0.0


NO_RETRY: Final = Retry()


def decode(headers: Any) -> tuple[dict[str, str], Retry]:  # noqa: ANN401 - list, tuple or None
    """Attributes and retry of a record. A header that is not text is not ours and is left out."""
    attributes: dict[str, str] = {}
    numbers: dict[str, int] = {}
    message_id = ""
    for name, value in headers or ():
        try:
            text = value.decode() if isinstance(value, bytes) else str(value or "")
        except UnicodeDecodeError:
            continue
        if name not in _OURS:
            attributes[name] = text
        elif name == RETRY_OF:
            message_id = text
        elif text.isascii() and text.isdigit():
            numbers[name] = int(text)
    not_before_s = numbers.get(NOT_BEFORE, 0) / 1000
    return attributes, Retry(message_id, numbers.get(DELIVERIES, 0), not_before_s)


def encode(attributes: Mapping[str, str]) -> list[tuple[str, str | bytes | None]]:
    """Headers for a message's attributes."""
    return [(name, value.encode(errors="replace")) for name, value in attributes.items()]


def for_retry(message: Message, not_before_s: float) -> dict[str, str]:
    """The attributes of a message that is to be delivered again, at `not_before_s` since 1970."""
    return {
        **message.attributes,
        DELIVERIES: str(message.attempt),
        RETRY_OF: message.message_id,
        NOT_BEFORE: str(round(not_before_s * 1000)),
    }
