"""The work of the "no broker" contest, for the drivers of the Python peers.

A driver runs in a virtual environment of its peer, without this project, so this module needs the
standard library alone. What a driver prints and reads is told in `benchmarks.peers.process`.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable

ORDER_BYTES = 200
DUPLICATE_EVERY = 20
PRODUCERS = 8
CONSUMER_CONNECTIONS = 16

DSN = os.environ.get("BENCH_DSN", "")
TUNED = os.environ.get("BENCH_TUNED") == "1"
BROKEN = os.environ.get("BENCH_BROKEN") == "1"
ORDERS = int(os.environ.get("BENCH_ORDERS", "0"))

INSERT_ORDER = "INSERT INTO orders (order_id, amount, currency, event_id) VALUES ($1, $2, $3, $4)"

_CHARGE = """INSERT INTO charges
    (order_id, event_id, amount, currency, provider_charge_id, delivery_attempt)"""
# One statement: the inbox row is the guard, the charge is the effect. Without the guard, for the
# negative control, a duplicate is charged twice.
CHARGE = (
    f"{_CHARGE} VALUES ($2, $1, $3, $4, $1, 1)"
    if BROKEN
    else f"""
    WITH claimed AS (
        INSERT INTO onceproof.inbox (consumer, event_id) VALUES ('payments', $1)
        ON CONFLICT DO NOTHING RETURNING event_id)
    {_CHARGE} SELECT $2, event_id, $3, $4, event_id, 1 FROM claimed
    """
)


def order_of(number: int) -> tuple[str, dict[str, object]]:
    """An event's id, and its order: `ORDER_BYTES` bytes as JSON."""
    order: dict[str, object] = {
        "order_id": f"o-{number:012d}",
        "amount": 1999,
        "currency": "EUR",
        "note": "",
    }
    bare = json.dumps(order, separators=(",", ":"))
    order["note"] = "x" * (ORDER_BYTES - len(bare))
    return f"01930000-0000-7000-8000-{number:012d}", order


def twice(number: int) -> bool:
    """Whether this order's job is enqueued a second time."""
    return number % DUPLICATE_EVERY == 0


def say(word: str) -> None:
    """Tell the harness: `ready` or `done`."""
    print(word, flush=True)


def wait_for_go() -> None:
    """Until the harness says so."""
    sys.stdin.readline()


async def until_closed() -> None:
    """Until the harness closes stdin, which it does however it ends."""
    await asyncio.to_thread(sys.stdin.read)


async def produce(enqueue: Callable[[int], Awaitable[None]]) -> None:
    """Enqueue all orders, `PRODUCERS` at a time."""
    numbers = iter(range(ORDERS))

    async def one_after_the_other() -> None:
        for number in numbers:
            await enqueue(number)

    await asyncio.gather(*(one_after_the_other() for _ in range(PRODUCERS)))


def main(**roles: Callable[[], Awaitable[None]]) -> None:
    """Command line of a driver: the name of a role.

    A producer that is done stays until stdin is closed, so that its CPU time can still be read.
    """
    role = sys.argv[1]

    async def todo() -> None:
        await roles[role]()
        if role == "enqueue":
            say("done")
            await until_closed()

    try:
        import uvloop  # type: ignore[import-not-found,unused-ignore]  # noqa: PLC0415
    except ImportError:
        asyncio.run(todo())
    else:
        uvloop.run(todo())
