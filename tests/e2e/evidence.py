"""What is kept of a test that failed: enough to find out why when the namespace is gone."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.e2e.cluster import GROUP
from tests.e2e.installation import Installation

from onceproof_chaos.traces import write_spans

_DUMP = """
    SELECT coalesce(json_agg(t), '[]') FROM (SELECT * FROM {table} ORDER BY 1 DESC LIMIT 5000) t
"""
_TABLES = {
    "onceproof": ("orders", "charges", "onceproof.outbox", "onceproof.inbox"),
    "provider": ("captures",),
}
_DECLARED = f"crashdrills.{GROUP},campaigns.{GROUP}"
_MARGIN_S = 5.0


def save(installation: Installation, folder: Path, since: float) -> None:
    """Save custom resources, pods, events, logs, both ledgers and the spans since then.

    Args:
        installation: where the test ran.
        folder: is made.
        since: Unix time in seconds at which the test began.
    """
    folder.mkdir(parents=True, exist_ok=True)
    kubectl = installation.cluster.kubectl
    _attempt(folder / "custom-resources.yaml", lambda: kubectl("get", _DECLARED, "-o", "yaml"))
    _attempt(folder / "summary.txt", lambda: kubectl("get", f"{_DECLARED},pods,jobs", "-o", "wide"))
    _attempt(folder / "pods.txt", lambda: kubectl("describe", "pods"))
    _attempt(folder / "events.txt", lambda: kubectl("get", "events", "--sort-by=.lastTimestamp"))
    for pod in installation.cluster.pods():
        words = ("logs", pod.name, "--all-containers", "--timestamps")
        _attempt(folder / f"logs/{pod.name}.log", partial(kubectl, *words))
        if pod.restarts:
            before = folder / f"logs/{pod.name}.previous.log"
            _attempt(before, partial(kubectl, *words, "--previous"))
    for database, tables in _TABLES.items():
        for table in tables:
            dump = partial(_rows, installation, database, table)
            _attempt(folder / f"sql/{table}.json", dump)
    _attempt(folder / "spans.txt", lambda: _spans(installation, folder, since))


def _rows(installation: Installation, database: str, table: str) -> str:
    rows = installation.ledgers.query(database, _DUMP.format(table=table))
    return json.dumps(rows, indent=1)


def _spans(installation: Installation, folder: Path, since: float) -> str:
    spans = installation.traces.spans(since - _MARGIN_S, time.time() + _MARGIN_S)
    write_spans(folder / "spans.jsonl", spans)
    return f"{len(spans)} spans in spans.jsonl: those that began since {since:.3f}\n"


def _attempt(path: Path, produce: Callable[[], str]) -> None:
    """Write what can be had; what cannot says why, and hides nothing else."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.write_text(produce())
    except Exception as error:  # noqa: BLE001 - whatever is wrong with it is what we want to know
        path.write_text(f"not saved: {error}\n")


def folder_name(test: str) -> str:
    """A test's name as a folder's: `test_drill[consumer.after_commit-kill]` has brackets."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", test).strip("-")
