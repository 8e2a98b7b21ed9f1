"""A campaign's progress in its status, written every other second, and its kills as spans."""

from __future__ import annotations

import asyncio
import logging
from typing import Final, Self

from onceproof.crashpoints import Action
from onceproof_chaos.faultlog import FaultEvent, FaultEventKind
from onceproof_operator.api import ClusterError
from onceproof_operator.conditions import Status
from onceproof_operator.kill import Kill, record

logger = logging.getLogger(__name__)

_WRITE_EVERY_S: Final = 2.0
_PHASES: Final = {"draining": "Draining", "waiting for the last faults": "Draining"}


class CampaignProgress:
    """See `onceproof_chaos.conduct.Progress`.

    Args:
        status: of the Campaign.
        namespace: of its pods.
    """

    def __init__(self, status: Status, namespace: str) -> None:
        self._status = status
        self._namespace = namespace
        self._orders = 0
        self._kills: set[str] = set()
        self._reached: dict[str, float] = {}
        self._text = ""
        self._changed = False
        self._writer: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._writer = asyncio.create_task(self._write())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.cancel()
            await asyncio.gather(self._writer, return_exceptions=True)

    def phase(self, text: str) -> None:
        """What is being done now."""
        self._text = text
        self._status.set(phase=_PHASES.get(text, "Loading"))
        self._changed = True

    def order_finished(self) -> None:
        """A client is done with its order."""
        self._orders += 1
        self._changed = True

    def fault(self, event: FaultEvent) -> None:
        """The nemesis saw or did something."""
        if event.event is FaultEventKind.REACHED and event.fault is not None:
            self._reached[event.fault] = event.at
        elif event.event is FaultEventKind.KILLED and event.action == Action.KILL:
            # Two pods may reach one fault; it is one kill of the plan all the same.
            self._kills.add(event.fault or "")
            record(self._kill(event))
        self._changed = True

    def _kill(self, event: FaultEvent) -> Kill:
        return Kill(
            drill=event.fault or "",
            namespace=self._namespace,
            pod=event.instance or "",
            uid=event.uid or "",
            point=event.point or "",
            order=event.order or "",
            attempt=event.attempt or 0,
            event_id=event.event_id or "",
            trace_id=event.trace_id or "",
            span_id=event.span_id or "",
            started_at=self._reached.get(event.fault or "", event.at),
            ended_at=event.at,
        )

    async def _write(self) -> None:
        while True:
            await asyncio.sleep(_WRITE_EVERY_S)
            if not self._changed:
                continue
            self._changed = False
            self._status.set(
                orders=self._orders,
                kills=len(self._kills),
                faultsReached=len(self._reached),
                message=f"{self._text}: {self._orders} orders, {len(self._kills)} kills",
            )
            try:
                await self._status.write()
            except ClusterError as error:
                logger.warning("progress not written: %s", error)
                self._changed = True
