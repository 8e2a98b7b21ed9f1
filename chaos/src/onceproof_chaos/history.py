"""What the client was promised, written by the workload itself, outside of the system under test.

The system's own tables cannot witness what it promised: an order that was accepted and then lost is
in none of them. An attempt is written before it is sent, so an order is known as asked for even when
the harness dies before the answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, Self, TextIO

from onceproof_chaos import jsonl

_ATTEMPT: Final = "attempt"


class Outcome(StrEnum):
    """What the client knows about its order: accepted, refused, or neither."""

    OK = "ok"
    FAIL = "fail"
    INFO = "info"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One request that is about to be sent. `at` is Unix time in seconds, `attempt` counts from 1."""

    order_id: str
    amount: int
    currency: str
    attempt: int
    at: float


@dataclass(frozen=True, slots=True)
class Finished:
    """An order that the client is done with.

    Args:
        order_id: chosen by the client.
        amount: minor units.
        currency: ISO 4217 code.
        outcome: ok (201), fail (a definite no), info (unknown).
        status: last HTTP status, None when no answer came at all.
        attempts: requests tried.
        started_at: Unix time in seconds of the first attempt.
        ended_at: Unix time in seconds of the decision.
        error: the last thing that went wrong, None when nothing did.
    """

    order_id: str
    amount: int
    currency: str
    outcome: Outcome
    status: int | None
    attempts: int
    started_at: float
    ended_at: float
    error: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self) | {"outcome": self.outcome.value}


@dataclass(frozen=True, slots=True)
class History:
    """Finished orders by id, and every order that was asked for at all."""

    finished: Mapping[str, Finished] = field(default_factory=dict)
    asked: Mapping[str, Attempt] = field(default_factory=dict)
    """First attempts by order id; not every writer of a history records them."""

    def was_asked(self, order: str) -> bool:
        """Whether the client ever asked for this order."""
        return order in self.finished or order in self.asked

    @classmethod
    def of(cls, *finished: Finished) -> History:
        """A history of these orders.

        Raises:
            ValueError: an order is there twice.
        """
        by_order: dict[str, Finished] = {}
        for entry in finished:
            _add(by_order, entry)
        return cls(by_order)

    @classmethod
    def load(cls, path: Path) -> History:
        """Read `history.jsonl`.

        Raises:
            RunFolderError: it is missing, a line is corrupt, or an order has two outcomes.
        """
        finished: dict[str, Finished] = {}
        asked: dict[str, Attempt] = {}

        def take(document: Mapping[str, Any]) -> None:
            row = _parse(document)
            if isinstance(row, Attempt):
                asked.setdefault(row.order_id, row)
            else:
                _add(finished, row)

        for _ in jsonl.read(path, take):
            pass
        return cls(finished, asked)


class HistoryWriter:
    """Appends to `history.jsonl`, or to a stream that becomes one; each line is flushed."""

    def __init__(self, target: Path | TextIO) -> None:
        self._lines = jsonl.Appender(target)

    def attempt(self, attempt: Attempt) -> None:
        """Record a request before it is sent."""
        self._lines.append(asdict(attempt) | {"event": _ATTEMPT})

    def finished(self, entry: Finished) -> None:
        """Record the outcome of an order."""
        self._lines.append(entry.as_json())

    def close(self) -> None:
        """Close the file; a stream stays open."""
        self._lines.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _parse(document: Mapping[str, Any]) -> Finished | Attempt:
    event = document.get("event")
    if event == _ATTEMPT:
        return Attempt(**{name: document[name] for name in Attempt.__slots__})
    if event is not None:
        raise ValueError(f"unknown event {event!r}")
    values = {name: document[name] for name in Finished.__slots__ if name != "error"}
    return Finished(
        **values | {"outcome": Outcome(document["outcome"])}, error=document.get("error")
    )


def _add(finished: dict[str, Finished], entry: Finished) -> None:
    if entry.order_id in finished:
        raise ValueError(f"order {entry.order_id} has two outcomes")
    finished[entry.order_id] = entry
