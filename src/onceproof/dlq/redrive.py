"""Send dead letters back to their queue: at least once each, none lost, and every step on record.

The order of the steps is the whole argument. For each message: record `sending`; send the same bytes
to the source queue; record `sent`; delete it from the DLQ; record `deleted`. A kill

- before the send loses nothing: the message is in the DLQ, and visible again soon;
- between the send and its record sends it again next time, and the inbox absorbs the second one,
  because it has the same event id;
- between the record and the delete leaves a message that is known to be sent: next time it is
  only deleted;
- after the delete has lost a line of the log, which the next redrive puts back as `gone`.

Deleted is only what the source queue confirmed. A confirmed send never turns into nothing.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from typing import Final

from onceproof.dlq.audit import AuditLog, AuditLogError
from onceproof.dlq.judge import Judge, Judged
from onceproof.dlq.letter import Letter
from onceproof.dlq.pace import Pace
from onceproof.dlq.plan import RedriveSettings, check_settings, why_left
from onceproof.dlq.port import DeadLetters
from onceproof.dlq.sweep import Sweep
from onceproof.dlq.trail import Step, Trail
from onceproof.errors import BrokerUnavailableError, OnceproofError

_ATTEMPTS: Final = 3
_BATCH: Final = 10
CAME_AGAIN: Final = "came_again"
"""Reason for leaving a message: its event was sent by this redrive already, in another message."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What a redrive did, over all of its resumptions.

    Args:
        redrive: its id.
        resumed: whether this went on with an earlier one.
        sent: messages that the source queue confirmed.
        deleted: those of them that are gone from the DLQ.
        unconfirmed: sent, and perhaps still in the DLQ; the next redrive deletes them.
        not_sent: could not be sent, and stay in the DLQ.
        left: messages that were left in the DLQ, by reason.
        elsewhere: messages that somebody else holds, approximate on SQS.
        stopped: why it ended early; None when it is finished.
    """

    redrive: str
    resumed: bool
    sent: int
    deleted: int
    unconfirmed: int
    not_sent: int
    left: dict[str, int] = field(default_factory=dict)
    elsewhere: int = 0
    stopped: str | None = None


Progress = Callable[[Trail], None]
"""Told after each batch what the audit log says by now."""


class Redrive:
    """One redrive, or the rest of one.

    Args:
        letters: the DLQ.
        judge: of what each message would do.
        audit: its log.
        settings: how to.
        pace: holds it to the rate.
        on_progress: see `Progress`.
    """

    def __init__(
        self,
        letters: DeadLetters,
        judge: Judge,
        audit: AuditLog,
        settings: RedriveSettings,
        *,
        pace: Pace | None = None,
        on_progress: Progress = lambda _trail: None,
    ) -> None:
        check_settings(settings, judge)
        self._letters = letters
        self._judge = judge
        self._audit = audit
        self._settings = settings
        self._pace = pace or Pace(settings.rate_per_s)
        self._on_progress = on_progress
        self._seen: set[str] = set()
        """Messages that were in the DLQ when this process last heard of them."""
        self._undeletable: Counter[str] = Counter()
        self._blocked: set[str] = set()
        """Keys of which a message could not be sent."""
        self._refusals = 0

    async def run(self, stop: asyncio.Event) -> Summary:
        """Redrive until everything was seen, enough was sent, or `stop` is set.

        Raises:
            BrokerUnavailableError: it is stopped, and can be resumed.
            DatabaseUnavailableError: as above.
            AuditLogError: as above.
        """
        audit = self._audit
        resumed = audit.begin(self._letters.source.name, self._settings.as_json())
        sweep = Sweep(self._letters, patience_s=self._settings.patience_s, stop=stop)
        try:
            self._on_progress(audit.trail)
            if not self._done():
                async with aclosing(sweep.batches(_BATCH)) as batches:
                    async for batch in batches:
                        await self._settle([Letter.of(message) for message in batch], stop)
                        self._on_progress(audit.trail)
                        if self._done():
                            break
            if sweep.complete:
                audit.gone(audit.trail.unconfirmed.keys() - self._seen)
        except OnceproofError as error:
            with suppress(AuditLogError):
                audit.end(Step.STOPPED, {"why": str(error)})
            raise
        return self._end(resumed, sweep, stop)

    async def _settle(self, letters: Sequence[Letter], stop: asyncio.Event) -> None:
        trail = self._audit.trail
        self._seen.update(letter.id for letter in letters)
        earlier = [letter for letter in letters if letter.id in trail.unconfirmed]
        fresh = [letter for letter in letters if letter.id not in trail.unconfirmed]
        if earlier:
            await self._delete(earlier)
        chosen = await self._choose(fresh) if fresh else []
        for start in range(0, len(chosen), self._pace.at_once):
            chunk = self._in_order(chosen[start : start + self._pace.at_once])
            if not await self._pace.wait(len(chunk), stop):
                return
            await self._send(chunk)

    def _in_order(self, chunk: Sequence[Judged]) -> list[Judged]:
        """Without what must wait for an earlier message of its key, where the queue keeps order."""
        if not self._letters.source.keeps_order:
            return list(chunk)
        return [judged for judged in chunk if judged.letter.key not in self._blocked]

    async def _choose(self, letters: Sequence[Letter]) -> list[Judged]:
        """What is to be sent now; the rest stays held, so that it does not come again."""
        trail, most = self._audit.trail, self._settings.most
        # What a killed pass may have sent has its place already: resumed or not, no more than `most`.
        room = len(letters) if most is None else most - len(trail.sent) - len(trail.in_doubt)
        chosen: dict[str, Judged] = {}
        left: list[tuple[Letter, dict[str, str]]] = []
        for judged in await self._judge.judge(letters):
            letter = judged.letter
            event = letter.event_id or ""
            why = why_left(judged, self._settings)
            if why is None and (event in chosen or trail.events.get(event, letter.id) != letter.id):
                # Without this a message that fails again at once would go round and round.
                why = CAME_AGAIN
            if why is not None:
                left.append((letter, {"why": why}))
            elif letter.id in trail.in_doubt:
                chosen[event] = judged
            elif room > 0:
                room -= 1
                chosen[event] = judged
        self._audit.write(Step.SKIPPED, left)
        return list(chosen.values())

    async def _send(self, chunk: Sequence[Judged]) -> None:
        holds = self._letters.holds
        pending = [judged for judged in chunk if holds(judged.letter.message)]
        # What lapsed meanwhile is left alone; it comes again, or somebody else has it.
        lapsed = [judged.letter.message for judged in chunk if not holds(judged.letter.message)]
        await self._letters.give_back(lapsed)
        error: str | None = None
        sent_any = not pending
        for attempt in range(_ATTEMPTS):
            if not pending:
                break
            if attempt:
                await asyncio.sleep(self._settings.backoff_s * 2 ** (attempt - 1))
            sent, pending, error = await self._attempt(pending)
            if sent:
                sent_any = True
                await self._delete(sent)
        self._blocked.update(judged.letter.key for judged in pending if judged.letter.key)
        self._refusals = 0 if sent_any else self._refusals + 1
        if self._refusals >= _ATTEMPTS:
            raise BrokerUnavailableError(
                f"queue {self._letters.source.name!r} takes nothing: {error}"
            )

    async def _attempt(
        self, chunk: Sequence[Judged]
    ) -> tuple[list[Letter], list[Judged], str | None]:
        """Send once: what was confirmed, what was not, and an error of the latter."""
        audit = self._audit
        audit.write(Step.SENDING, ((judged.letter, {"fate": judged.fate}) for judged in chunk))
        results = await self._letters.resend([j.letter.copy(audit.redrive) for j in chunk])
        pairs = list(zip(chunk, results, strict=True))
        sent = [(j.letter, result) for j, result in pairs if result.ok]
        failed = [(j, result) for j, result in pairs if not result.ok]
        audit.write(Step.SENT, ((letter, {"sent_as": r.message_id}) for letter, r in sent))
        audit.write(Step.NOT_SENT, ((judged.letter, {"error": r.error}) for judged, r in failed))
        error = failed[-1][1].error if failed else None
        return [letter for letter, _ in sent], [judged for judged, _ in failed], error

    async def _delete(self, letters: Sequence[Letter]) -> None:
        """Delete what was confirmed sent; what cannot be deleted is let go, and comes again for it."""
        results = await self._letters.remove([letter.message for letter in letters])
        pairs = list(zip(letters, results, strict=True))
        failed = [(letter, result) for letter, result in pairs if not result.ok]
        self._audit.write(Step.DELETED, ((letter, {}) for letter, result in pairs if result.ok))
        self._audit.write(
            Step.NOT_DELETED, ((letter, {"error": result.error}) for letter, result in failed)
        )
        self._undeletable.update(letter.id for letter, _ in failed)
        again = [m for m, _ in failed if self._undeletable[m.id] < _ATTEMPTS]
        self._seen.difference_update(letter.id for letter in again)
        await self._letters.give_back([letter.message for letter in again])

    def _done(self) -> bool:
        """Whether enough was sent, and nothing that was sent is still looked for."""
        trail, most = self._audit.trail, self._settings.most
        if most is None or len(trail.sent) < most:
            return False
        return all(self._undeletable[message_id] >= _ATTEMPTS for message_id in trail.unconfirmed)

    def _end(self, resumed: bool, sweep: Sweep, stop: asyncio.Event) -> Summary:
        audit, trail = self._audit, self._audit.trail
        redrive = audit.redrive
        stopped = None
        if stop.is_set():
            stopped = "on request"
        elif not self._done() and not sweep.complete:
            stopped = f"{sweep.elsewhere} messages are held by somebody else"
        elif trail.not_sent:
            stopped = f"{len(trail.not_sent)} messages could not be sent"
        elif self._seen & trail.unconfirmed.keys():
            stopped = "messages were sent that could not be deleted; they are deleted next time"
        summary = Summary(
            redrive=redrive,
            resumed=resumed,
            sent=len(trail.sent),
            deleted=len(trail.sent & trail.deleted),
            unconfirmed=len(trail.unconfirmed),
            not_sent=len(trail.not_sent),
            left=dict(trail.reasons()),
            elsewhere=sweep.elsewhere,
            stopped=stopped,
        )
        audit.end(
            Step.STOPPED if stopped else Step.FINISHED,
            {"sent": summary.sent, "deleted": summary.deleted, "left": summary.left}
            | ({"why": stopped} if stopped else {}),
        )
        return summary
