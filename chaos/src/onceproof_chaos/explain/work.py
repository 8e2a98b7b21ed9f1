"""Why a message came again whose consumer had begun with it: the work was done, or never ended."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from onceproof_chaos.evidence import ChargeRow
from onceproof_chaos.explain.case import Case, ack_clue, ack_lost, zombie
from onceproof_chaos.explain.deliveries import CONFIRMED, DONE, Sighting, What
from onceproof_chaos.explain.processes import End
from onceproof_chaos.explain.reasons import Clue, Finding, Reason, unknown

_ACK_S: Final = 5.0
"""Seconds in which an ack has its answer. Where a process lived on for longer, what is missing is the
span of its ack, and not the ack."""


def why_settled(case: Case) -> Finding | None:
    """The work was done; what happened to the ack? None when it was not."""
    handled = case.before.handled
    if handled is None:
        return None
    clues = [*case.received(), *case.handled()]
    came = case.came_by(handled.span.end)
    if came:
        return zombie(case, handled, clues)
    if came is None and not case.own_at(handled.span.end):
        return unknown(
            f"{case.name} was handled by {case.who}",
            "when it came again: before its work was done, or after",
            clues=clues,
        )
    return _fate_of_ack(case, handled, clues)


def _fate_of_ack(case: Case, handled: Sighting, clues: Sequence[Clue]) -> Finding:
    """Why an ack had no effect, for work that was done in time."""
    if case.before.outcome == "ack_lost":
        return ack_lost(case, "its ack was never sent", clues)
    acks = case.before.of(What.ACKED)
    for ack in acks:
        if ack.result and ack.result != CONFIRMED:
            how = "its ack came too late" if ack.result == "stale" else "its ack was not confirmed"
            return ack_lost(case, how, [*clues, ack_clue(ack)])
    if acks:
        return _late_ack(case, acks[0], [*clues, ack_clue(acks[0])])
    return _without_ack(case, handled, clues)


def _without_ack(case: Case, handled: Sighting, clues: Sequence[Clue]) -> Finding:
    """Why no span tells of an ack: its consumer ended before, or the span is lost."""
    text = f"{case.name} was handled by {case.who}"
    end = case.end(handled.span.end)
    if end is None:
        missing = "its ack: no span of it, and no record that its consumer ended"
        return unknown(text, missing, clues=clues)
    clues = [*clues, *end.clues]
    state = case.before.state_at(end.crash) if end.crash is not None else None
    lived_on = case.came_by(end.stood_at) or end.stood_at - handled.span.end > _ACK_S
    if end.planned and state != DONE:
        missing = (
            "the span of its ack: it was not in hand any more when its process stood at the crash point"
            if end.declared
            else "the span of the crash point, which says what the process had in hand"
        )
        return unknown(text, missing, clues=clues)
    if not end.planned and lived_on:
        missing = "the span of its ack: its consumer lived on for long enough to send it"
        return unknown(text, missing, clues=clues)
    return ack_lost(case, f"was {case.told(end)} before its ack went out", clues)


def _late_ack(case: Case, ack: Sighting, clues: Sequence[Clue]) -> Finding:
    """An ack that was answered, when the message may have been somebody else's already.

    A standard queue on AWS confirms an old receipt and keeps the message.
    """
    if ack.result == CONFIRMED and case.came_by(ack.span.start):
        return ack_lost(case, "its ack came too late", clues)
    return unknown(
        f"{case.name} was handled and acked by {case.who}",
        "which came first, the ack or the redelivery"
        if ack.result == CONFIRMED
        else "what the broker answered to the ack",
        clues=clues,
    )


def why_unfinished(case: Case) -> Finding:
    """Nobody reports an end of the work: did its process die in the middle of it?"""
    before = case.before
    end = case.end(before.known_at)
    if end is None:
        return unknown(
            f"{case.who} had {case.name}",
            "what became of it there: no span tells how the work ended, and no record that the process "
            "did",
            clues=list(case.received()),
        )
    text = f"{case.who} was {case.told(end)} with {case.name} in hand"
    clues = [*case.received(), *case.stood(end), *end.clues]
    if (finding := _not_in_hand(case, end, clues)) is not None:
        return finding
    if before.received is None:
        missing = f"the receive span of {case.name}: how long the message was its own"
        return unknown(text, missing, clues=clues)
    if case.came_by(end.stood_at):
        return Finding(
            Reason.VISIBILITY_EXPIRED,
            f"{case.who} still had {case.name} in hand when it came again",
            [*clues, *case.came("while that process was alive")],
        )
    return _expired_first(case, end, text, clues) or _by_commit(case, end, text, clues)


def _not_in_hand(case: Case, end: End, clues: Sequence[Clue]) -> Finding | None:
    """Whether a process that died may have been through with the message, or was but for the ack."""
    text = f"{case.who} was {case.told(end)} after it had received {case.name}"
    if end.declared and end.crash is not None:
        state = case.before.state_at(end.crash)
        if state == DONE:
            return ack_lost(case, f"was {case.told(end)} before its ack went out", clues)
        if state is None:
            missing = f"what became of {case.name}: it was not in hand any more at the crash point"
            return unknown(text, missing, clues=clues)
        return None
    missing = ""
    if end.planned:
        missing = "the span of the crash point, which says what the process had in hand"
    elif any(row.created_at <= end.stood_at for row in case.event.charges if _earlier(row, case)):
        missing = f"whether {case.name} was through: the event had been committed before"
    elif case.came_by(end.stood_at):
        missing = (
            f"whether it still had {case.name} when that came again: it died later, without a word"
        )
    return unknown(text, missing, clues=clues) if missing else None


def _earlier(row: ChargeRow, case: Case) -> bool:
    """Whether a row may be of another delivery than the one before."""
    return row.delivery_attempt != case.before.attempt or len(case.event.messages) > 1


def _expired_first(case: Case, end: End, text: str, clues: Sequence[Clue]) -> Finding | None:
    """Whether the visibility ran out before the process died."""
    before = case.before
    if before.own_until is None or end.stood_at <= before.own_until:
        return None
    seconds = before.visibility_s or 0.0
    beat_s = before.heartbeat_s
    if beat_s:
        # The last extension may be one and a half intervals old. What it gave has not ended when the
        # message comes again before: then there was none, and nobody knows since when.
        in_doubt = case.came_before(end.stood_at + seconds - 2 * beat_s)
    else:
        in_doubt = beat_s is None or end.stood_at < before.known_at + seconds
    if in_doubt:
        missing = "which came first, the end of the visibility or of the process"
        return unknown(text, missing, clues=[*clues, *case.came("after that")])
    if beat_s:
        return None
    lived = end.stood_at - before.known_at
    span = before.received.span if before.received else before.sightings[0].span
    says = f"visibility {seconds:g} s, not extended; the process lived on for {lived:.1f} s"
    return Finding(
        Reason.VISIBILITY_EXPIRED,
        f"{case.who} still had {case.name} in hand when its visibility expired",
        [*clues, Clue.span(span, says)],
    )


def _by_commit(case: Case, end: End, text: str, clues: Sequence[Clue]) -> Finding:
    """The process died with the message in hand: before the commit, or after."""
    commit = case.commit()
    clues = [*clues, *commit.clues]
    if commit.done is None:
        return unknown(text, commit.missing, clues=clues)
    if commit.done:
        how = f"was {case.told(end)} before its ack went out"
        return Finding(Reason.ACK_LOST, f"{case.who} committed {case.name}, and {how}", clues)
    earlier = [row for row in case.event.charges if row.created_at < case.before.known_at]
    what = "; the event had been committed before" if earlier else ""
    return Finding(Reason.CRASHED_BEFORE_COMMIT, f"{text}, before it was done{what}", clues)


__all__ = ["why_settled", "why_unfinished"]
