"""The relay: claims pending rows, sends them with the broker's batch API, marks each by its result.

At least once by construction: a relay that dies between send and mark leaves its rows to be sent
again under new message ids, which is why consumers deduplicate on the event's id.

Several batches are under way at once, so that claim, send and mark of different batches overlap. Order
per key needs nothing for that: a row is claimed only as the head of its key, so no two of one key are.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Sequence
from contextlib import suppress

from onceproof import metrics
from onceproof.crashpoints import RELAY_AFTER_PUBLISH, RELAY_BEFORE_PUBLISH, crash_points
from onceproof.errors import TransientError
from onceproof.linger import Linger
from onceproof.outbox.dispatch import Dispatcher
from onceproof.outbox.scan import Scan
from onceproof.outbox.settings import RelaySettings
from onceproof.outbox.store import OutboxRow, OutboxStore, RowResult
from onceproof.ports import HealthListener, Publisher

logger = logging.getLogger(__name__)


class Relay:
    """Moves outbox rows to a broker until it is stopped. Several run side by side.

    Args:
        store: the outbox.
        publisher: the broker.
        wakeup: set by whoever knows of new rows; see `Listener`.
        settings: how it works.
        rng: source of the jitter.
        on_health: told why the broker takes nothing at all (`broker`, reason), and None when it does.
    """

    def __init__(
        self,
        store: OutboxStore,
        publisher: Publisher,
        *,
        wakeup: asyncio.Event | None = None,
        settings: RelaySettings | None = None,
        rng: random.Random | None = None,
        on_health: HealthListener = lambda _dependency, _reason: None,
    ) -> None:
        self._on_health = on_health
        self._store = store
        self._wakeup = wakeup or asyncio.Event()
        self._settings = settings or RelaySettings()
        self._rng = rng or random.Random()  # noqa: S311 - jitter, not cryptography
        self._dispatcher = Dispatcher(
            publisher,
            self._settings.system,
            self._settings.backoff_s,
            self._settings.backoff_max_s,
            self._rng,
        )
        self._linger = Linger(self._settings.linger_s)
        self._hurry = asyncio.Event()
        self._failed_at: float | None = None
        self._broker_takes = False
        self._hold_back_s = 0.0
        self._to_mark: list[RowResult] = []
        self._marking = asyncio.Lock()

    async def run(self, stop: asyncio.Event) -> None:
        """Relay until `stop` is set; batches in hand are finished first."""
        settings = self._settings
        scan = Scan(
            self._store,
            batch_size=settings.batch_size,
            lease_s=settings.lease_s,
            sweep_s=settings.poll_s,
        )
        stopper = asyncio.create_task(_forward(stop, self._hurry, self._wakeup))
        batches: set[asyncio.Task[None]] = set()
        try:
            async with self._store.connected():
                try:
                    while not stop.is_set():
                        if self._wakeup.is_set():
                            scan.told()
                        self._wakeup.clear()
                        self._hurry.clear()
                        if stop.is_set():
                            break
                        await self._step(scan, stop, batches)
                    await asyncio.gather(*batches)
                finally:
                    # Nothing is left here but after a cancellation, or an error that is ours.
                    for batch in batches:
                        batch.cancel()
                    await asyncio.gather(*batches, return_exceptions=True)
        finally:
            stopper.cancel()
            await asyncio.gather(stopper, return_exceptions=True)

    async def run_once(self) -> int:
        """Claim, send and mark one batch; the number of rows claimed.

        Raises:
            TransientError: of the database; rows already sent stay claimed and are sent again.
        """
        rows = await self._store.claim(self._settings.batch_size, self._settings.lease_s)
        if rows:
            await self._store.mark(await self._send(rows))
        return len(rows)

    async def _step(
        self, scan: Scan, stop: asyncio.Event, batches: set[asyncio.Task[None]]
    ) -> None:
        """Claim a batch and have it sent, or wait for something to do."""
        if self._hold_back_s:
            # Without a pause a long backlog would be claimed and failed through in a spin.
            pause_s, self._hold_back_s = self._hold_back_s, 0.0
            await self._pause(stop, pause_s)
            return
        if len(batches) >= self._capacity():
            done, _ = await asyncio.wait(batches, return_when=asyncio.FIRST_COMPLETED)
            for batch in done:
                batches.discard(batch)
                batch.result()
            return
        try:
            rows = await scan.next()
        except TransientError as error:
            logger.warning("outbox not reachable, trying again: %s", error)
            await self._pause(stop, self._settings.database_backoff_s)
            return
        self._linger.took(len(rows), time.monotonic())
        if rows:
            batches.add(asyncio.create_task(self._relay(rows, scan)))
        if not scan.unfinished:
            if not rows:
                self._forget_failure()
            await self._pause(self._wakeup, self._settings.poll_s)
            if self._wakeup.is_set():
                await self._let_rows_gather()
        for batch in [batch for batch in batches if batch.done()]:
            batches.discard(batch)
            batch.result()

    async def _let_rows_gather(self) -> None:
        """Not for those that were told to be free: they have waited for the head of their key."""
        delay_s = self._linger.delay_s(time.monotonic())
        if delay_s and not _is_armed():
            await _wait(self._hurry, delay_s)

    def _capacity(self) -> int:
        # Behind an armed crash point a kill must leave nothing but its own batch half done: whoever
        # armed it wants to see what this one step leaves behind.
        if not self._broker_takes or _is_armed():
            return 1
        return self._settings.batches_in_flight

    async def _relay(self, rows: Sequence[OutboxRow], scan: Scan) -> None:
        """Send and mark a batch; what the database does not take stays claimed until its lease ends."""
        try:
            freed = await self._mark(await self._send(rows), scan)
        except TransientError as error:
            logger.warning("sent, but not marked; it will be sent again: %s", error)
            self._hold_back_s = self._settings.database_backoff_s
            return
        if freed:
            scan.free(freed)
            self._hurry.set()
            self._wakeup.set()

    async def _send(self, rows: Sequence[OutboxRow]) -> list[RowResult]:
        results = await self._dispatcher.publish(rows)
        errors = [result.error for result in results if result.error is not None]
        failed = len(errors)
        nothing_taken = failed == len(results)
        self._broker_takes = not nothing_taken
        self._failed_at = time.monotonic() if nothing_taken else None
        self._on_health("broker", errors[-1] if nothing_taken else None)
        metrics.published.inc(len(results) - failed)
        metrics.publish_failures.inc(failed)
        if nothing_taken and len(rows) >= self._settings.batch_size:
            self._hold_back_s = self._settings.database_backoff_s
        return results

    async def _mark(self, results: Sequence[RowResult], scan: Scan) -> list[int]:
        """Mark with one statement what came together while another one was under way.

        A row that is committed while a mark runs is unknown to the mark, and a pass that begins
        meanwhile sees it behind its head, which is unpublished for as long as the mark is not
        committed, and does not come back to it. A pass that was under way before does not count: who
        is told of that row begins another one.
        """
        self._to_mark += results
        async with self._marking:
            together, self._to_mark = self._to_mark, []
            if not together:
                return []
            passes = scan.passes
            freed = await self._store.mark(together)
        if scan.passes != passes:
            with suppress(TransientError):  # it is marked, and the sweep comes by
                freed = await self._store.behind(together)
        return freed

    def _forget_failure(self) -> None:
        """Be healthy again: what failed here would be back by now if another relay had not sent it."""
        longest_s = self._settings.backoff_max_s
        if self._failed_at is not None and time.monotonic() - self._failed_at > longest_s:
            self._failed_at = None
            self._on_health("broker", None)

    async def _pause(self, until: asyncio.Event, seconds: float) -> None:
        await _wait(until, seconds * self._rng.uniform(0.8, 1.2))


def _is_armed() -> bool:
    return crash_points.is_armed(RELAY_BEFORE_PUBLISH, RELAY_AFTER_PUBLISH)


async def _forward(stop: asyncio.Event, *events: asyncio.Event) -> None:
    await stop.wait()
    for event in events:
        event.set()


async def _wait(event: asyncio.Event, timeout_s: float) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        pass
