"""Watches the slot: records how far it got, and says so when nobody reads it or it is lost."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Final

from prometheus_client import Gauge

from onceproof import metrics
from onceproof.errors import TransientError
from onceproof.outbox.slot import Slot, SlotState, SlotStatus
from onceproof.ports import HealthListener

logger = logging.getLogger(__name__)

slot_lag: Final = Gauge(
    "onceproof_slot_lag_bytes", "WAL that the reader of the replication slot has not confirmed."
)
slot_retained: Final = Gauge(
    "onceproof_slot_retained_bytes", "WAL that the server keeps for the replication slot."
)
slot_safe: Final = Gauge(
    "onceproof_slot_safe_bytes",
    "WAL that can be written until the slot is lost; -1 where there is no limit.",
)
slot_lost: Final = Gauge(
    "onceproof_slot_lost", "1: the replication slot is gone and events with it, see the runbook."
)
slot_read: Final = Gauge("onceproof_slot_read", "1: somebody reads the replication slot.")


async def watch(slot: Slot, every_s: float, idle_grace_s: float, on_health: HealthListener) -> None:
    """Watch until cancelled.

    Args:
        slot: whose.
        every_s: seconds between two looks.
        idle_grace_s: seconds for which nobody may read it.
        on_health: told why the slot cannot be used (`slot`, reason), and None when it can.
    """
    told: str | None = None
    read_at = time.monotonic()
    async with slot.watched():
        while True:
            try:
                status = await slot.advance()
                pending, oldest_age_s = await slot.pending()
            except TransientError as error:
                logger.debug("slot unknown: %s", error)
            else:
                _measure(status, pending, oldest_age_s)
                now = time.monotonic()
                if status.state is SlotState.READ:
                    read_at = now
                reason = why_unusable(status)
                if status.state is SlotState.IDLE and now - read_at < idle_grace_s:
                    reason = None
                on_health("slot", reason)
                if reason is not None and reason != told:
                    logger.error("%s", reason)
                told = reason
            await asyncio.sleep(every_s)


async def require_made(slot: Slot) -> None:
    """Refuse to go on before a slot was made. One that was lost is another matter: that has to be told.

    Raises:
        TransientError: it was not.
    """
    status = await slot.status()
    if status.state in {SlotState.ABSENT, SlotState.UNREGISTERED}:
        raise TransientError(why_unusable(status) or "")


def why_unusable(status: SlotStatus) -> str | None:
    """Why no event comes through a slot; None when they do."""
    if status.state is SlotState.READ:
        return None
    if status.state is SlotState.LOST:
        return (
            f"replication slot {status.slot} is lost, and events with it: {status.why_lost}. "
            "Run onceproof outbox reconcile"
        )
    if status.state is SlotState.IDLE:
        return f"nobody reads replication slot {status.slot}, and it keeps WAL"
    return f"replication slot {status.slot} is {status.state}: run onceproof outbox slot create"


def _measure(status: SlotStatus, pending: int, oldest_age_s: float) -> None:
    slot_lag.set(status.lag_bytes)
    slot_retained.set(status.retained_bytes)
    slot_safe.set(-1 if status.safe_bytes is None else status.safe_bytes)
    slot_lost.set(status.state is SlotState.LOST)
    slot_read.set(status.state is SlotState.READ)
    metrics.outbox_pending.set(pending)
    metrics.outbox_oldest_age.set(oldest_age_s)
