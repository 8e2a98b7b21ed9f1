"""After a slot was lost: find the events that nobody has sent, make the slot anew, and send them.

In this order, or events would be lost again: what is committed while the rest is sent must have a slot
that will give it out. Sent is by the relay's own claims and marks, each event under a lease, so this may
be killed and repeated, and run beside other relays. What was sent although nobody recorded it is sent
twice; consumers deduplicate on the event's id.
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy.ext.asyncio import AsyncEngine

from onceproof.errors import ConfigurationError
from onceproof.outbox import slot_statements as statements
from onceproof.outbox.dispatch import Dispatcher
from onceproof.outbox.settings import RelaySettings
from onceproof.outbox.slot import Slot, SlotState
from onceproof.outbox.store import OutboxStore
from onceproof.ports import Publisher
from onceproof.postgres import Connections, translated

_PAUSE_S: Final = 0.2


@dataclass(frozen=True, slots=True)
class Gap:
    """Events that nobody has sent, and nobody will: how many, since when, and what the slot is."""

    rows: int
    oldest: datetime | None
    state: SlotState
    why_lost: str = ""


@dataclass(frozen=True, slots=True)
class Reconciled:
    """What was done. `left` were not taken by the broker, which gave `why_left`, or are claimed."""

    replaced: bool
    found: int
    sent: int
    left: int
    why_left: str = ""


class Reconciler:
    """Closes the gap that a lost slot leaves.

    Args:
        engine: where the outbox is.
        slot: the slot.
        settings: as of the relay: size of batches, lease, backoff.
        give_up_s: seconds without any event sent after which the rest is left.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        slot: Slot,
        *,
        settings: RelaySettings | None = None,
        give_up_s: float = 60.0,
    ) -> None:
        self._slot = slot
        self._settings = settings or RelaySettings()
        self._give_up_s = give_up_s
        self._connections = Connections(engine, size=1)
        self._store = OutboxStore(engine, relay=f"reconcile-{socket.gethostname()}-{os.getpid()}")

    async def gap(self) -> Gap:
        """Look, and change nothing.

        Raises:
            ConfigurationError: there never was such a slot.
            DatabaseUnavailableError, TransientError: nothing is known.
        """
        status = await self._slot.status()
        if status.state is SlotState.ABSENT:
            raise ConfigurationError(
                f"there is no replication slot {self._slot.name}, and never was: "
                "onceproof outbox slot create makes it"
            )
        with translated():
            row = await self._connections.run(
                lambda c: c.fetchrow(
                    statements.UNSENT, self._slot.name, status.state is SlotState.LOST
                )
            )
        return Gap(row["rows"], row["oldest"], status.state, status.why_lost)

    async def run(
        self, publisher: Publisher, on_sent: Callable[[int], None] = lambda _: None
    ) -> Reconciled:
        """Make a lost slot anew, and send what was not sent.

        Args:
            publisher: the broker.
            on_sent: told how many events were sent, after each batch.

        Raises:
            ConfigurationError: there never was such a slot, or it is there and is not ours.
            DatabaseUnavailableError, TransientError: repeat it; nothing is lost by that.
        """
        gap = await self.gap()
        if gap.state is SlotState.UNREGISTERED:
            raise ConfigurationError(
                f"slot {self._slot.name} is not registered: run onceproof outbox slot create"
            )
        # The new slot's registration will say nothing of what the old one has sent.
        await self._slot.settle()
        if gap.state is SlotState.LOST:
            await self._slot.replace()
        sent, why = await self._send(publisher, on_sent)
        left = (await self.gap()).rows
        return Reconciled(gap.state is SlotState.LOST, gap.rows, sent, left, why if left else "")

    async def _send(self, publisher: Publisher, on_sent: Callable[[int], None]) -> tuple[int, str]:
        settings = self._settings
        dispatcher = Dispatcher(
            publisher,
            settings.system,
            settings.backoff_s,
            settings.backoff_max_s,
            random.Random(),  # noqa: S311 - jitter, not cryptography
        )
        sent, behind, fruitless_s, why = 0, 0, 0.0, ""
        while fruitless_s < self._give_up_s:
            with translated():
                found = await self._connections.run(
                    lambda c, behind=behind: c.fetch(  # type: ignore[misc]
                        statements.NEXT_UNSENT,
                        self._slot.name, False, behind, settings.batch_size,
                    )
                )  # fmt: skip
            seqs = [row["seq"] for row in found]
            # Those that wait for the head of their key, or for a retry, take another turn.
            behind = seqs[-1] if len(seqs) == settings.batch_size else 0
            rows = await self._store.claim_these(seqs, settings.lease_s) if seqs else []
            results = await dispatcher.publish(rows) if rows else []
            if results:
                await self._store.mark(results)
            taken = sum(result.error is None for result in results)
            sent += taken
            why = next((result.error for result in results if result.error), why)
            if taken:
                on_sent(taken)
                fruitless_s = 0.0
            elif behind == 0:
                if not seqs and not (await self.gap()).rows:
                    break
                await asyncio.sleep(_PAUSE_S)
                fruitless_s += _PAUSE_S
        return sent, why
