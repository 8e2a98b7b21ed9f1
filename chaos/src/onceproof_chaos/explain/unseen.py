"""Why a message came again when nobody has a span of the delivery before.

The broker counts a delivery when it answers a request, whether or not anybody reads the answer. A
process that stands at its crash point with such a request open takes the answer with it. Its span tells
that the request was open, and the broker tells when it first gave the message to anybody.
"""

from __future__ import annotations

from onceproof_chaos.explain.commits import not_committed
from onceproof_chaos.explain.events import EventStory
from onceproof_chaos.explain.processes import End, Processes
from onceproof_chaos.explain.reasons import Clue, Finding, Reason, unknown
from onceproof_chaos.explain.windows import CLOCKS_S, Window, window_of


def why_unseen(
    event: EventStory, message: str, attempt: int, processes: Processes, *, has_database: bool
) -> Finding:
    """The reason for a delivery whose predecessor, `attempt` - 1, nobody reported."""
    before = attempt - 1
    text = f"nobody reported delivery {before}"
    window = window_of(event, message, before)
    if window is None:
        return unknown(
            text,
            f"a span of delivery {before}",
            "when the broker made it (ApproximateFirstReceiveTimestamp)",
        )
    says = "the broker first gave the message to anybody then"
    clues = [] if window.span is None else [Clue.span(window.span, says)]
    ends = [end for end in processes.all_ends() if _may_have_taken(end, window)]
    if not ends:
        return unknown(
            text,
            f"a span of delivery {before}",
            "a record of a process that ended then with a receive request open",
            clues=clues,
        )
    clues += [clue for end in ends[:1] for clue in end.clues]
    lost = processes.lost_receives(window.since, window.until)
    if lost:
        missing = f"receive spans of {', '.join(lost)}: some of that time were lost"
        return unknown(text, missing, clues=clues)
    commit = not_committed(event, message, before, processes, has_database=has_database)
    clues += commit.clues
    if commit.done is None:
        return unknown(text, commit.missing, clues=clues)
    who = (
        ends[0].instance
        if len(ends) == 1
        else f"one of {len(ends)} consumers that were killed then"
    )
    return Finding(
        Reason.CRASHED_BEFORE_COMMIT,
        f"delivery {before} was the answer to a request of {who}, which was "
        f"{ends[0].told(event.event_id)} and never read it",
        clues,
    )


def why_untraced(attempt: int, committed: Clue) -> Finding:
    """The reason for a delivery that only a row tells of: without any span nothing can be said."""
    return unknown(
        f"no span tells of delivery {attempt}",
        f"spans of deliveries {attempt - 1} and {attempt}: not sampled, or older than the trace "
        "store remembers",
        clues=[committed],
    )


def _may_have_taken(end: End, window: Window) -> bool:
    """Whether a process died with a receive request open that the broker answered in the window."""
    since = end.receive_open_since
    if since is None:
        return False
    return since - CLOCKS_S <= window.until and end.ended_at + end.lingers_s >= window.since


__all__ = ["why_unseen", "why_untraced"]
