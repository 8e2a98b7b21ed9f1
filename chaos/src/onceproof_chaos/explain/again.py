"""Why the same message was delivered once more, from what became of its delivery before.

The broker delivers a message again for one reason only: it was not acked before its visibility ran out,
or was given back. So the question is always what the consumer before did with it. The rules are tried
in the order in which one fact rules out another: an ack in time, coming again before anything that
the consumer did can have freed it, letting go, standing still, giving back, ending the work, dying in
the middle of it.
"""

from __future__ import annotations

from onceproof_chaos.explain.case import Case, ack_clue, ack_lost, zombie
from onceproof_chaos.explain.commits import over_at
from onceproof_chaos.explain.deliveries import CONFIRMED, DONE, Delivery, What
from onceproof_chaos.explain.processes import Stall
from onceproof_chaos.explain.reasons import Clue, Finding, Reason, unknown
from onceproof_chaos.explain.work import why_settled, why_unfinished


def why_again(case: Case) -> Finding:
    """The reason for a redelivery."""
    if len(case.before.instances) > 1:
        who = " and ".join(case.before.instances)
        return unknown(f"{case.name} was made to {who}", "which of the two consumers lost it")
    for rule in (_acked_in_time, _too_soon, _let_go, _stood_still, _given_back, why_settled):
        if (finding := rule(case)) is not None:
            return finding
    return why_unfinished(case)


def _acked_in_time(case: Case) -> Finding | None:
    """The broker had confirmed the ack while nobody else can have had the message."""
    for ack in case.before.of(What.ACKED):
        if ack.result == CONFIRMED and (
            case.own_at(ack.span.end) or _asked_after(case, ack.span.end)
        ):
            return Finding(
                Reason.BROKER,
                f"{case.who} acked {case.name} in time, and the broker confirmed it",
                [*case.received(), ack_clue(ack), *case.came("all the same")],
            )
    return None


def _asked_after(case: Case, moment: float) -> bool:
    """Whether the redelivery was not even asked for by then."""
    again = case.again
    return again is not None and again.received is not None and again.asked_at >= moment


def _too_soon(case: Case) -> Finding | None:
    """Its visibility cannot have ended yet: whatever became of its consumer did not free it."""
    until = case.before.own_until
    if until is None or not case.came_before(until) or case.before.of(What.RELEASED):
        return None
    return unknown(
        f"{case.name} came again before the visibility that {case.who} had asked for can have ended",
        "who freed it: a span that says that it was given back, or it was the broker",
        clues=[*case.received(), *case.handled(), *case.came("within that time")],
    )


def _stood_still(case: Case) -> Finding | None:
    """The process stood still while it had the message, for longer than the visibility lasts."""
    before = case.before
    stalls = case.processes.stalls_of(before.instance)
    stall = next((stall for stall in stalls if _held(before, stall)), None)
    lost = next((stall for stall in stalls if _may_have_held(case, stall)), None)
    if stall is None and lost is not None:
        return unknown(
            f"{case.who} stood still after it had received {case.name}",
            "the span of that, which says what the process had in hand",
            clues=[*case.received(), *lost.clues],
        )
    if stall is None:
        return None
    lapsed = _lapsed_in(case, stall)
    if lapsed is None:
        return unknown(
            f"{case.who} stood still with {case.name} in hand",
            "for how long, or how long the message was its own",
            clues=[*case.received(), *stall.clues],
        )
    if not lapsed:
        return None
    clues = [*case.received(), *stall.clues, *lapsed]
    if stall.crash is not None and before.state_at(stall.crash) == DONE:
        return ack_lost(case, "then stood still before its ack went out", [*clues, *case.handled()])
    return Finding(
        Reason.VISIBILITY_EXPIRED,
        f"{case.who} stood still with {case.name} in hand, and its visibility expired meanwhile",
        clues,
    )


def _held(before: Delivery, stall: Stall) -> bool:
    """Whether a process had the message in hand when it stood still, or was given it meanwhile."""
    if stall.crash is None:
        return False
    if before.state_at(stall.crash) is not None:
        return True
    return stall.until is not None and before.asked_at < stall.since < before.known_at


def _may_have_held(case: Case, stall: Stall) -> bool:
    """Whether the span is lost that would say if a process stood still with the message in hand."""
    until = stall.until if stall.until is not None else float("inf")
    return (
        stall.crash is None
        and case.before.asked_at <= until
        and over_at(case.before, case.processes) >= stall.since
    )


def _lapsed_in(case: Case, stall: Stall) -> list[Clue] | None:
    """What shows that the visibility expired in a stall; empty if it did not, None if nobody knows."""
    again, before = case.again, case.before
    if stall.until is None:
        return None
    if again is not None and stall.since < again.known_at <= stall.until:
        return list(case.came("while that process stood still"))
    if before.received is None or before.visibility_s is None:
        return None
    if stall.crash is None or before.state_at(stall.crash) is None:
        # It was given to a process that stood: only the redelivery tells whether it lapsed there.
        return [] if again is not None and again.received is not None else None
    if stall.seconds < before.visibility_s:
        return []
    text = f"visibility {before.visibility_s:g} s; the stall lasted {stall.seconds:.1f} s"
    return [Clue.span(before.received.span, text)]


def _let_go(case: Case) -> Finding | None:
    """The consumer saw by its own clock that the visibility had run out, and did not start."""
    for lapsed in case.before.of(What.LAPSED):
        return Finding(
            Reason.VISIBILITY_EXPIRED,
            f"{case.name} waited in {case.who} until its visibility had expired, and was let go",
            [*case.received(), Clue.span(lapsed.span, "let go: its visibility had expired")],
        )
    return None


def _given_back(case: Case) -> Finding | None:
    """The consumer gave it back, or held it with a failure until it lapsed."""
    before, handled = case.before, case.before.handled
    clues = [*case.received(), *case.handled()]
    failed = handled is not None and not before.settled
    released = next(iter(before.of(What.RELEASED)), None)
    if released is not None and not case.came_before(released.span.end):
        error = (handled.span.status_message if handled else "") or "no error recorded"
        why = f"after its handler had failed ({error})" if failed else "when it was told to stop"
        return Finding(
            Reason.HANDLER_FAILED,
            f"{case.who} gave {case.name} back {why}",
            [*clues, Clue.span(released.span, "given back, to be delivered again")],
        )
    if handled is not None and not before.settled and case.came_by(handled.span.end):
        return zombie(case, handled, clues)
    if released is not None:
        return unknown(
            f"{case.who} gave {case.name} back when it had come again already",
            "why it had: no span tells of its handling",
            clues=[*clues, *case.came("before that")],
        )
    if handled is None or before.settled:
        return None
    return unknown(
        f"the handler of {case.name} failed in {case.who}",
        "what became of it then: no span says that it was given back",
        clues=clues,
    )


__all__ = ["why_again"]
