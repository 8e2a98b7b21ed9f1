"""One run: a fault at one point, alone, and what the invariants say when all is quiet again.

Where a fault is put, a single consumer runs and has nothing but the target to do, so that it is that
consumer and that message which come to the point. A successor is started by the fault itself: after a
kill, or while the other one stands still.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import aiohttp

from onceproof.crashpoints import Action
from onceproof_chaos.admin_client import AdminClient
from onceproof_chaos.backend import Instance
from onceproof_chaos.drain import Drain
from onceproof_chaos.faultlog import FaultEvent, FaultEventKind
from onceproof_chaos.plan import Fault
from onceproof_chaos.prove.commit_trap import CommitTrap
from onceproof_chaos.prove.crew import Crew
from onceproof_chaos.prove.doors import Doors
from onceproof_chaos.prove.facts import Facts
from onceproof_chaos.prove.ground import Ground, Place, record_published
from onceproof_chaos.prove.invariants import evaluate
from onceproof_chaos.prove.messages import Published, publish
from onceproof_chaos.prove.points import (
    BEFORE_ACK,
    BEFORE_COMMIT,
    CONTROL,
    DUPLICATE,
    WITHOUT_INBOX,
    Act,
    Cell,
    Kind,
)
from onceproof_chaos.prove.processes import backend_for, environment
from onceproof_chaos.prove.quiet import Quiet, written
from onceproof_chaos.prove.traps import CrashPointTrap, Trap, first
from onceproof_chaos.prove.zombie import Zombie

Listener = Callable[[FaultEvent], None]

_CONSUMERS: Final = 2
"""Where no fault is put; two copies of an event must be able to meet."""
_PARK_S: Final = 60.0
"""After which a process that waits for its kill goes on; it is killed within milliseconds."""
_GROUP: Final = 5
"""Messages under way at a fault, where the consumer takes several at once."""
_CROWDED: Final = (
    "Postgres ran out of connections, so the fault is not the only thing that went wrong: lower "
    "--parallel, or raise the server's max_connections"
)
_SLACK_S: Final = 0.5
"""By which a quiet window is longer than the visibility timeout."""


class Run:
    """One cell of a proof.

    Args:
        cell: what to do.
        ground: where.
        place: its database and queue.
        messages: what to publish.
        logs: folder for the consumers' logs.
        listener: gets every event, for the log of the proof.
    """

    def __init__(
        self,
        cell: Cell,
        ground: Ground,
        place: Place,
        messages: Sequence[Published],
        logs: Path,
        listener: Listener,
    ) -> None:
        self._cell = cell
        self._ground = ground
        self._settings = ground.settings
        self._place = place
        rng = random.Random(f"prove-{ground.settings.seed}-{cell.slug}")
        # Which one meets the fault is left to the seed.
        self._messages = rng.sample(messages, len(messages))
        self._logs = logs
        self._listener = listener
        self._subscriber = ground.broker.subscriber(place.queue)
        window_s = self._settings.visibility_s + _SLACK_S
        self._quiet = Quiet(place, self._subscriber, window_s=window_s)

    async def facts(self) -> Facts:
        """Carry it out, and say what happened.

        Raises:
            BackendError: a consumer does not start, or ends again and again.
            OnceproofError: queue or database do not answer, or an invariant is no SQL.
        """
        began = time.monotonic()
        invariants, url = self._settings.invariants, self._place.database_url
        await record_published(self._place, self._messages)
        is_first = self._cell.point == CONTROL
        missing = await evaluate(url, invariants) if is_first else ()
        seen = {violation.invariant for violation in missing}
        before = await self._quiet.state()
        try:
            # What a watcher of a consumer raises ends the run.
            async with asyncio.TaskGroup() as group:
                reached, reason, ends = await self._carry_out(group)
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None
        tolerated = not self._settings.kind.in_library and not self._cell.is_control
        return Facts(
            self._cell,
            reached=reached,
            violations=await evaluate(url, invariants),
            drain_reason=reason,
            ends=() if tolerated else tuple(ends),
            dead_letters=await self._dead_letters(),
            error=_CROWDED if self._quiet.crowded else None,
            blind=is_first and not seen,
            held_before=tuple(i.name for i in invariants if is_first and i.name not in seen),
            written=written(before, await self._quiet.state()),
            effects=await self._quiet.effects(),
            seconds=time.monotonic() - began,
            log=str(self._logs),
        )

    async def _carry_out(self, group: asyncio.TaskGroup) -> tuple[bool, str | None, list[str]]:
        """Whether the point was reached, why it did not become quiet, and what ended by itself."""
        inbox = self._settings.inbox and self._cell.point != WITHOUT_INBOX
        async with Doors(self._place, self._settings) as doors, aiohttp.ClientSession() as http:
            variables = environment(self._place, doors, self._settings, inbox=inbox)
            if self._has_fault and self._settings.kind is Kind.BATCH:
                variables["ONCEPROOF_CONCURRENCY"] = "1"  # one batch under way, no other
            backend = backend_for(self._settings, variables, self._logs, http)
            crew = Crew(backend, group, self._log, self._logs)
            try:
                if self._has_fault:
                    trap = self._trap(doors, AdminClient(http))
                    reached, reason = await self._with_fault(crew, doors, trap)
                else:
                    reached, reason = True, await self._in_peace(crew)
            finally:
                await crew.stop()
        return reached, reason, crew.ends

    async def _in_peace(self, crew: Crew) -> str | None:
        for _ in range(_CONSUMERS):
            await crew.start()
        if self._cell.act is Act.AT_ONCE or self._cell.point == WITHOUT_INBOX:
            # Side by side, so that both copies are likely to be in work at the same time.
            await self._publish([message for message in self._messages for _ in range(2)])
        else:
            await self._publish(self._messages)
        if self._cell.point == DUPLICATE and self._cell.act is Act.LATER:
            await self._quiet.until_empty(timeout_s=self._settings.drain_timeout_s)
            await self._publish(self._messages)
        return await self._until_quiet()

    async def _with_fault(self, crew: Crew, doors: Doors, trap: Trap) -> tuple[bool, str | None]:
        await trap.arm()
        try:
            consumer = await crew.start(trap.faults)
            reason, rest = None, self._messages
            # The target alone at first, so that nothing else is under way when the fault comes.
            for group in self._groups():
                await self._publish(group)
                rest = rest[len(group) :]
                quiet = asyncio.ensure_future(self._until_quiet())
                if await first(trap, consumer, quiet):
                    break
                reason = quiet.result()
            else:
                return False, reason
            await self._strike(crew, doors, consumer, trap)
        finally:
            await trap.close()
        await self._publish(rest)
        return True, await self._until_quiet()

    async def _strike(self, crew: Crew, doors: Doors, consumer: Instance, trap: Trap) -> None:
        """The consumer is held: do to it what was planned."""
        self._log(
            FaultEvent(
                FaultEventKind.REACHED,
                time.time(),
                point=self._cell.row,
                action=self._cell.act.value,
                instance=consumer.name,
                pid=consumer.pid,
            )
        )
        if self._cell.act is Act.KILL:
            await crew.kill(consumer)
        elif self._cell.act is Act.STALL:
            zombie = Zombie(doors, self._subscriber, self._settings)
            await crew.stall(consumer, self._settings.stall_s, zombie.until_replaced)
        await trap.release(
            go_on=self._cell.act is Act.STALL,
            # A client repeats an ack that was not answered; the message must come again first.
            refuse_s=self._settings.visibility_s if self._is_lost_ack else 0.0,
        )

    def _groups(self) -> Iterator[Sequence[Published]]:
        """What is published while the trap is set: the target, and where it was not reached the rest.

        A handler gets one message at a time, so one is the target; who takes several gets several.
        """
        target = 1 if self._settings.kind is Kind.HANDLER else _GROUP
        yield self._messages[:target]
        if self._messages[target:]:
            yield self._messages[target:]

    async def _until_quiet(self) -> str | None:
        # What a dead consumer held comes again only after the visibility timeout.
        timeout_s = self._settings.drain_timeout_s + self._settings.visibility_s
        return await self._quiet.until_quiet(timeout_s=timeout_s)

    @property
    def _has_fault(self) -> bool:
        return self._cell.act in {Act.KILL, Act.STALL, Act.DROP}

    @property
    def _is_lost_ack(self) -> bool:
        return self._cell.point == BEFORE_ACK and self._cell.act is Act.DROP

    def _trap(self, doors: Doors, admin: AdminClient) -> Trap:
        if not self._cell.is_crash_point:
            if self._cell.point == BEFORE_COMMIT:
                return CommitTrap(self._place.database_url, self._cell.detail)
            return doors.trap(self._cell.point)
        fault = Fault(
            self._cell.slug,
            self._cell.point,
            Action(self._cell.act.value),
            park_s=self._settings.stall_s if self._cell.act is Act.STALL else _PARK_S,
        )
        return CrashPointTrap(fault, admin)

    def _log(self, event: FaultEvent) -> None:
        self._listener(replace(event, fault=self._cell.slug))

    async def _publish(self, messages: Sequence[Published]) -> None:
        await publish(self._ground.broker, self._place.queue, messages)

    async def _dead_letters(self) -> tuple[dict[str, str | None], ...]:
        dead = self._ground.broker.subscriber(self._place.dead_letter_queue)
        if (await dead.depth()).total == 0:
            return ()
        drain = Drain(self._place.as_stage(), self._ground.broker, window_s=1.0)
        return tuple(
            {"event_id": row["event_id"], "reason": row["reason"]}
            for row in await drain.dead_letters()
        )


__all__ = ["Listener", "Run"]
