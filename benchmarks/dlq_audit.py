"""Whether an audit log of `onceproof dlq redrive` is complete, judged without the library's own reader.

The library reads its log to resume; a checker that used the same code would share its mistakes.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any, Final

_STARTS: Final = frozenset({"started", "resumed"})


def audit_problems(
    path: Path,
    *,
    before: AbstractSet[str] | None = None,
    after: AbstractSet[str] | None = None,
    finished: bool = True,
) -> list[str]:
    """What is missing from the log; empty when it is complete.

    Args:
        path: of the log.
        before: ids of the messages in the DLQ before the first redrive; None is not compared.
        after: ids of those that are left.
        finished: whether the last redrive must have come to its end.
    """
    problems: list[str] = []
    steps: dict[str, list[str]] = defaultdict(list)
    records = _records(path, problems)
    if records and records[0]["step"] != "started":
        problems.append("the log does not begin with a start")
    for record in records:
        message, step = record.get("message_id"), record["step"]
        if message is None:
            continue
        done = steps[message]
        if step in {"sent", "not_sent"} and "sending" not in done:
            problems.append(f"{message}: {step} without having announced it")
        if step in {"deleted", "gone", "not_deleted"} and "sent" not in done:
            problems.append(f"{message}: {step} without having been sent")
        done.append(step)
    if finished and (not records or records[-1]["step"] != "finished"):
        problems.append("the last redrive did not finish")
    if before is not None and after is not None:
        problems += _departures(steps, before, after)
    return problems


def starts(path: Path) -> int:
    """How often the log says that a redrive was begun anew."""
    return _count(path, "started")


def resumptions(path: Path) -> int:
    """How often the log says that a redrive was resumed."""
    return _count(path, "resumed")


def _count(path: Path, step: str) -> int:
    return sum(record["step"] == step for record in _records(path, []))


def _records(path: Path, problems: list[str]) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = []
    torn: int | None = None
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if not line:
            continue
        try:
            record = json.loads(line)
        except ValueError:
            torn = number
            continue
        if torn is not None and record["step"] not in _STARTS:
            problems.append(f"line {torn} is damaged, and not by a kill: the log goes on after it")
        torn = None
        records.append(record)
    return records


def _departures(
    steps: dict[str, list[str]], before: AbstractSet[str], after: AbstractSet[str]
) -> list[str]:
    problems = []
    for message in sorted(before - after):
        done = steps.get(message, [])
        if "sent" not in done:
            problems.append(f"{message} left the DLQ, and the log does not say that it was sent")
        elif not {"deleted", "gone"} & set(done):
            problems.append(f"{message} left the DLQ, and the log does not say so")
    return problems + [
        f"{message} is in the DLQ, and the log says that it is not"
        for message in sorted(after)
        if {"deleted", "gone"} & set(steps.get(message, []))
    ]
