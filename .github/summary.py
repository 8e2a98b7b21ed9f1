#!/usr/bin/env python3
"""The before/after tables of a workflow run, one for each broker and relay, as Markdown.

`summary.py FOLDER... >> $GITHUB_STEP_SUMMARY`

Reads the run folders anywhere below the given folders. Of each variant the run with the most orders
counts, the latest of them if there are several. Standard library only, so the job installs nothing.
Exit code: 0, or 1 when `naive` or `hardened` left no run: half a comparison looks like a whole one.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

ROWS = {
    "orders": "orders",
    "accepted": "accepted (201)",
    "lost": "**lost**",
    "double_charged": "**double-charged**",
    "unexpected": "unexpected",
    "mismatched": "mismatched",
    "recovered": "recovered",
    "redeliveries": "redeliveries",
    "deduplicated": "deduplicated",
    "kills": "kills",
    "verdict": "verdict",
}
BASELINES = ("naive", "hardened")


def runs(roots: Iterable[Path]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Each run's `run.json` and `verdict.json`; a folder that lacks one of them was no whole run."""
    for root in roots:
        for path in sorted(root.rglob("verdict.json")):
            info = path.with_name("run.json")
            if info.is_file() and not path.parent.is_symlink():
                yield json.loads(info.read_text()), json.loads(path.read_text())


def columns(roots: Iterable[Path]) -> dict[str, dict[str, dict[str, Any]]]:
    """By broker and relay, variant to the verdict that counts, naive first and hardened last."""
    chosen: dict[tuple[str, str], tuple[tuple[int, float], dict[str, Any]]] = {}
    for info, verdict in runs(roots):
        settings = info.get("settings", {})
        relay = settings.get("relay", "polling")
        where = settings.get("broker", "sqs") + ("" if relay == "polling" else f", relay {relay}")
        key = (where, info["variant"])
        rank = (info["orders"], info["started_at"])
        if key not in chosen or chosen[key][0] < rank:
            chosen[key] = (rank, verdict)
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for where, variant in sorted(chosen, key=_rank):
        found.setdefault(where, {})[variant] = chosen[where, variant][1]
    return found


def _rank(key: tuple[str, str]) -> tuple[object, ...]:
    where, variant = key
    return where != "sqs", where, variant != "naive", variant == "hardened", variant


def table(verdicts: dict[str, dict[str, Any]]) -> str:
    """One column per variant."""
    lines = [f"| | {' | '.join(verdicts)} |", "|---|" + "---:|" * len(verdicts)]
    for name, label in ROWS.items():
        cells = [cell(verdict[name]) for verdict in verdicts.values()]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def cell(value: object) -> str:
    """A count, or the sum of counts by crash point."""
    return str(sum(value.values()) if isinstance(value, dict) else value)


def main(arguments: list[str]) -> int:
    """Print the tables and what is missing from them."""
    found = columns(Path(argument) for argument in arguments) or {"sqs": {}}
    complete = True
    for where, verdicts in found.items():
        print(f"## Before and after, over {where}\n")
        if verdicts:
            print(table(verdicts))
        for variant in (each for each in BASELINES if each not in verdicts):
            complete = False
            print(f"\nNo run of `{variant}` was left behind.")
    return 0 if complete else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
