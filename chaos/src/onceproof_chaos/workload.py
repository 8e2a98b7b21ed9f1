"""The clients: seeded orders, sent at a fixed rate, and the record of what each was promised.

Open loop: orders start by the clock, not when earlier ones are answered, because a system that stands
still must not slow its own load down. A client repeats the same body under the same Idempotency-Key
until it has a definite answer. Some are impatient: they leave after the first unknown outcome, as real
ones do, and whether they were charged is then up to the pipeline.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

import aiohttp

from onceproof_chaos.history import Attempt, Finished, HistoryWriter, Outcome
from onceproof_chaos.plan import order_id

_CURRENCIES: Final = ("EUR", "USD", "GBP", "CHF", "JPY", "SEK")
_IMPATIENT_SHARE: Final = 0.1
_MAX_AMOUNT: Final = 50_000
"""Minor units; a shop's basket."""
_FIRST_BACKOFF_S: Final = 0.05
_MAX_BACKOFF_S: Final = 1.0
_MAX_REASON_CHARS: Final = 200
_NOT_DONE: Final = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS})
"""Answers that refuse this request, but not the order."""


@dataclass(frozen=True, slots=True)
class Order:
    """What one client wants. `amount` is in minor units."""

    order_id: str
    amount: int
    currency: str
    impatient: bool = False


def generate(seed: int, n: int, run: str = "") -> list[Order]:
    """The `n` orders of a seed; a longer workload starts with the same orders.

    The run's name is in the ids only: two runs of one seed ask for the same amounts.
    """
    rng = random.Random(f"workload-{seed}")
    return [
        Order(
            order_id=order_id(seed, index, run),
            amount=rng.randint(1, _MAX_AMOUNT),
            currency=rng.choice(_CURRENCIES),
            impatient=rng.random() < _IMPATIENT_SHARE,
        )
        for index in range(n)
    ]


@dataclass(frozen=True, slots=True)
class _Answer:
    """What one request taught. Without an outcome: `unknown` tells if the order may have arrived."""

    outcome: Outcome | None
    unknown: bool
    status: int | None = None
    error: str | None = None


class Workload:
    """Sends orders to the producer and writes the history.

    Args:
        orders: what to send, in this order.
        urls: base URLs of the producers that are thought to be up, asked before each attempt.
        history: where outcomes are written.
        rate_per_s: orders started each second.
        concurrency: most orders in progress; beyond it the load waits.
        attempt_timeout_s: seconds until an attempt's outcome is unknown.
        deadline_s: seconds until a client gives up on an order.
        seed: of the backoff's jitter and the choice of producer.
        on_finished: called for each order that ended, e.g. to move a progress bar.
    """

    def __init__(
        self,
        orders: Sequence[Order],
        urls: Callable[[], Sequence[str]],
        history: HistoryWriter,
        *,
        rate_per_s: float = 50.0,
        concurrency: int = 64,
        attempt_timeout_s: float = 2.0,
        deadline_s: float = 30.0,
        seed: int = 0,
        on_finished: Callable[[Finished], None] | None = None,
    ) -> None:
        if rate_per_s <= 0 or concurrency < 1:
            raise ValueError("rate_per_s must be above 0 and concurrency at least 1")
        self._orders = orders
        self._urls = urls
        self._history = history
        self._interval_s = 1 / rate_per_s
        self._slots = asyncio.Semaphore(concurrency)
        self._timeout = aiohttp.ClientTimeout(total=attempt_timeout_s)
        self._deadline_s = deadline_s
        self._rng = random.Random(f"clients-{seed}")
        self._on_finished = on_finished

    async def run(self) -> None:
        """Send every order and return when each has an outcome. Cancel it to stop early."""
        connector = aiohttp.TCPConnector(limit=0)
        async with (
            aiohttp.ClientSession(connector=connector, timeout=self._timeout) as session,
            asyncio.TaskGroup() as clients,
        ):
            started = time.monotonic()
            for index, order in enumerate(self._orders):
                await asyncio.sleep(started + index * self._interval_s - time.monotonic())
                await self._slots.acquire()
                client = clients.create_task(self._place(session, order))
                client.add_done_callback(lambda _: self._slots.release())

    async def _place(self, session: aiohttp.ClientSession, order: Order) -> None:
        started_at = time.time()
        give_up = time.monotonic() + self._deadline_s
        backoff_s = _FIRST_BACKOFF_S
        unknown = False
        attempts = 0
        while True:
            attempts += 1
            self._history.attempt(
                Attempt(order.order_id, order.amount, order.currency, attempts, time.time())
            )
            answer = await self._attempt(session, order)
            unknown = unknown or answer.unknown
            pause_s = backoff_s * self._rng.uniform(0.5, 1.5)
            late = time.monotonic() + pause_s >= give_up
            outcome = answer.outcome
            if outcome is None and (late or (unknown and order.impatient)):
                # A client that never got through was promised nothing, and knows it.
                outcome = Outcome.FAIL
            if outcome is Outcome.FAIL and unknown:
                outcome = (
                    Outcome.INFO
                )  # a no at the end does not undo what may have happened before
            if outcome is not None:
                break
            await asyncio.sleep(pause_s)
            backoff_s = min(2 * backoff_s, _MAX_BACKOFF_S)
        finished = Finished(
            order_id=order.order_id,
            amount=order.amount,
            currency=order.currency,
            outcome=outcome,
            status=answer.status,
            attempts=attempts,
            started_at=started_at,
            ended_at=time.time(),
            error=answer.error,
        )
        self._history.finished(finished)
        if self._on_finished is not None:
            self._on_finished(finished)

    async def _attempt(self, session: aiohttp.ClientSession, order: Order) -> _Answer:
        urls = self._urls()
        if not urls:
            return _Answer(None, unknown=False, error="no producer is up")
        body = {"order_id": order.order_id, "amount": order.amount, "currency": order.currency}
        try:
            async with session.post(
                f"{self._rng.choice(urls).rstrip('/')}/orders",
                json=body,
                headers={"Idempotency-Key": f"place-{order.order_id}"},
                allow_redirects=False,
            ) as response:
                status = response.status
                text = "" if status == HTTPStatus.CREATED else await response.text(errors="replace")
        except TimeoutError:
            return _Answer(None, unknown=True, error="timed out")
        except aiohttp.ClientConnectorError as error:
            return _Answer(None, unknown=False, error=f"not connected: {error.os_error}")
        except (aiohttp.ClientError, OSError) as error:
            return _Answer(None, unknown=True, error=f"{type(error).__name__}: {error}")
        return _judge(status, text[:_MAX_REASON_CHARS])


def _judge(status: int, text: str) -> _Answer:
    """What an HTTP answer means for the order."""
    error = f"HTTP {status}: {text}"
    if status == HTTPStatus.CREATED:
        return _Answer(Outcome.OK, unknown=False, status=status)
    if status in _NOT_DONE:
        return _Answer(None, unknown=False, status=status, error=error)
    # 409: another attempt under the same key is still at work, so the order may well have arrived.
    if 400 <= status < 500 and status != HTTPStatus.CONFLICT:
        return _Answer(Outcome.FAIL, unknown=False, status=status, error=error)
    return _Answer(None, unknown=True, status=status, error=error)
