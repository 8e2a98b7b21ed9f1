"""What is to be proved, and under what; and the command line that proves it again."""

from __future__ import annotations

import shlex
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from onceproof_chaos.prove.invariants import Invariant, parse
from onceproof_chaos.prove.points import Kind, check_points

EVENT_TYPE: Final = "dev.onceproof.prove.message"
DATA: Final = '{"key": "$key", "number": $number}'
"""Data of an event where nobody said otherwise."""


@dataclass(frozen=True, slots=True)
class ProveSettings:
    """One proof. Times in seconds.

    Args:
        target: `module:name` of handler or loop; of a command its whole command line.
        kind: what the target is.
        schema: SQL files that create the tables, in this order; may be empty.
        invariants: what must hold at the end of each run.
        path: folder from which the target is imported, and in which a command runs.
        messages: events in each run.
        seed: of events and of which one meets the fault.
        event_type: CloudEvents type of the events.
        data: JSON template of an event's data, with `$key`, `$number` (from 0) and `$id`.
        events: `module:name` of a function that makes the events instead; see `messages`.
        raw: send the data alone, without its CloudEvents envelope, as some loops expect it.
        inbox: have the library deduplicate; off where the handler does so itself.
        points: points to prove; empty means all.
        visibility_s: visibility timeout of the queue; short, because each fault waits for it.
        max_receive_count: deliveries before a message goes to the DLQ.
        parallel: runs at the same time; each has databases, queues and processes of its own. Fewer
            where Postgres' `max_connections` does not go so far.
        drain_timeout_s: for a run to become quiet, beside the time in which it is seen to be.
    """

    target: str
    kind: Kind
    invariants: tuple[Invariant, ...]
    schema: tuple[Path, ...] = ()
    path: Path = Path()
    messages: int = 20
    seed: int = 1
    event_type: str = EVENT_TYPE
    data: str = DATA
    events: str | None = None
    raw: bool = False
    inbox: bool = True
    points: tuple[str, ...] = ()
    visibility_s: float = 2.0
    max_receive_count: int = 10
    parallel: int = 6
    drain_timeout_s: float = 60.0

    def __post_init__(self) -> None:
        if not self.invariants:
            raise ValueError("an invariant is needed: SQL that finds what must not be")
        if self.kind is Kind.COMMAND:
            if not shlex.split(self.target):
                raise ValueError("the command is empty")
        elif not _is_import_path(self.target):
            raise ValueError(f"{self.target!r} is no import path; expected my_service:handle")
        if self.events is not None and not _is_import_path(self.events):
            raise ValueError(f"{self.events!r} is no import path; expected my_service:events")
        if self.kind.in_library and self.raw:
            raise ValueError("the library's consumer reads CloudEvents; raw data is for own loops")
        if not self.kind.in_library and not self.inbox:
            raise ValueError("an own loop never has the library's inbox")
        if self.messages < 2:
            raise ValueError("at least two messages are needed")
        if self.visibility_s < 1 or self.parallel < 1:
            raise ValueError("visibility (seconds) and parallel runs start at 1")
        check_points(self.kind, self.points)

    @property
    def stall_s(self) -> float:
        """How long a stalled process stands still: past the visibility timeout."""
        return self.visibility_s + 2.0

    def as_json(self) -> dict[str, Any]:
        """Plain JSON types, for the run folder."""
        return asdict(self) | {
            "kind": self.kind.value,
            "schema": [str(path) for path in self.schema],
            "path": str(self.path),
            "invariants": [asdict(invariant) for invariant in self.invariants],
        }

    def command(self) -> str:
        """The command line that proves it again."""
        words = ["onceproof", "prove"]
        words += ["--command", self.target] if self.kind is Kind.COMMAND else [self.target]
        words += [{Kind.BATCH: "--batch", Kind.LOOP: "--own-loop"}.get(self.kind, "")]
        for path in self.schema:
            words += ["--schema", str(path)]
        for invariant in self.invariants:
            text = f"{invariant.name}={invariant.sql}"
            # A name that was given by us is given again.
            words += ["--invariant", text if parse([text]) == (invariant,) else invariant.sql]
        for point in self.points:
            words += ["--point", point]
        given = {
            "--path": self.path, "--messages": self.messages, "--seed": self.seed,
            "--event-type": self.event_type, "--visibility": self.visibility_s,
        }  # fmt: skip
        words += [word for option, value in given.items() for word in (option, str(value))]
        words += ["--events", self.events] if self.events else ["--data", self.data]
        words += ["--raw"] if self.raw else []
        words += [] if self.inbox else ["--no-inbox"]
        return shlex.join(word for word in words if word)


def _is_import_path(text: str) -> bool:
    module, _, name = text.partition(":")
    return all(part.isidentifier() for part in (*module.split("."), *name.split(".")))


__all__ = ["DATA", "EVENT_TYPE", "ProveSettings"]
