"""What the nemesis saw and did, one line an event in `faults.jsonl`.

The plan says what was meant to happen; this says what did. A verdict needs both: a fault that was not
reached proves nothing, and a process that died without a fault was not this drill's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class FaultEventKind(StrEnum):
    """What the nemesis saw or did."""

    ARMED = "armed"
    REACHED = "reached"
    KILLED = "killed"
    RESTARTED = "restarted"
    RESUMED = "resumed"
    DISARMED = "disarmed"
    DIED_UNEXPECTEDLY = "died_unexpectedly"


@dataclass(frozen=True, slots=True)
class FaultEvent:
    """One line of `faults.jsonl`, the nemesis's log. `at` is Unix time in seconds.

    Fields that an event does not have are None: a process that died by itself has no fault.
    """

    event: FaultEventKind
    at: float
    fault: str | None = None
    point: str | None = None
    action: str | None = None
    order: str | None = None
    attempt: int | None = None
    event_id: str | None = None
    service: str | None = None
    instance: str | None = None
    pid: int | None = None
    uid: str | None = None
    exit_code: int | None = None
    trace_id: str | None = None
    span_id: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Plain JSON types without what is None."""
        document = {name: value for name, value in asdict(self).items() if value is not None}
        return document | {"event": self.event.value}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> FaultEvent:
        """What `as_json` gave; unknown fields are left out.

        Raises:
            ValueError, KeyError, TypeError: it is not an event of the nemesis.
        """
        known = {name: document[name] for name in cls.__slots__ if name in document}
        return cls(**known | {"event": FaultEventKind(document["event"])})
