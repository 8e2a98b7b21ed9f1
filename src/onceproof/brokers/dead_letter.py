"""What a rejected message carries into the dead-letter queue, the same names on every broker.

A message that the redrive policy moved carries none of these: the broker knows only that nobody
acked it often enough. A rejected one says why, because whoever reads the DLQ must decide whether a
redrive can help.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

REASON: Final = "onceproof.reason"
"""Attribute with the reason of the rejection."""
ORIGINAL_ID: Final = "onceproof.message_id"
"""Attribute with the broker's id of the message in the queue that it came from."""

MAX_REASON_CHARS: Final = 1000
_MAX_ATTRIBUTES: Final = 10


def dead_letter_attributes(
    attributes: Mapping[str, str], message_id: str, reason: str
) -> dict[str, str]:
    """The original attributes, as many as brokers accept, with reason and original id added."""
    kept = [item for item in attributes.items() if item[0] not in (REASON, ORIGINAL_ID)]
    reason = reason.strip()[:MAX_REASON_CHARS] or "no reason given"
    return dict(kept[: _MAX_ATTRIBUTES - 2]) | {REASON: reason, ORIGINAL_ID: message_id}
