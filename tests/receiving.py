"""Receiving to a deadline, so that no test sleeps."""

from __future__ import annotations

import time

from onceproof.ports import Message, Subscriber


async def received(
    subscriber: Subscriber, count: int, *, deadline_s: float, visibility_s: float = 30.0
) -> list[Message]:
    """Receive until there are `count` messages; fail if there are not in `deadline_s` seconds."""
    found: list[Message] = []
    deadline = time.monotonic() + deadline_s
    while len(found) < count and time.monotonic() < deadline:
        found += await subscriber.receive(
            max_messages=count - len(found), wait_s=1, visibility_s=visibility_s
        )
    assert len(found) == count
    return found
