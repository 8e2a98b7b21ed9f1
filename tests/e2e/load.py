"""Many orders at a fixed rate from this machine, while a test does something to the pods."""

from __future__ import annotations

import asyncio
import json
import secrets
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.e2e.cluster import Cluster
from tests.e2e.installation import Installation
from tests.e2e.waiting import until

from onceproof_chaos.history import History, HistoryWriter, Outcome
from onceproof_chaos.workload import Workload, generate

_SEED = 11


@dataclass(frozen=True)
class Load:
    """Orders that are on their way.

    Args:
        installation: where they go.
        prefix: of their ids.
        history: what their clients were promised.
        ended: whether every client has its answer.
    """

    installation: Installation
    prefix: str
    history: Path
    ended: Callable[[], bool]

    def charged_once(self, *, within_s: float) -> None:
        """Wait until every order was captured, and look that none was captured or charged twice."""

        def all_captured() -> bool:
            totals = self.installation.ledgers.totals(self.prefix)
            return self.ended() and not totals.never_captured

        until(within_s, f"every order {self.prefix} captured", all_captured, every_s=1)
        promised = History.load(self.history).finished
        outcomes = {entry.outcome for entry in promised.values()}
        totals = self.installation.ledgers.totals(self.prefix)
        assert outcomes == {Outcome.OK}
        assert totals.orders == promised.keys()
        assert set(totals.captures.values()) == set(totals.charges.values()) == {1}


@contextmanager
def load(
    installation: Installation, runs: Path, *, orders: int, rate_per_s: float
) -> Iterator[Load]:
    """Place orders in the background until all are placed, or the block is left."""
    run = secrets.token_hex(4)
    path = runs / f"history-{run}.jsonl"
    leave = asyncio.Event()
    loop_ready = threading.Event()
    loops: list[asyncio.AbstractEventLoop] = []

    async def place(history: HistoryWriter) -> None:
        loops.append(asyncio.get_running_loop())
        loop_ready.set()
        workload = Workload(
            # A client that leaves early would be one whose order proves nothing here.
            [order for order in generate(_SEED, 2 * orders, run) if not order.impatient][:orders],
            lambda: [installation.producer],
            history,
            rate_per_s=rate_per_s,
            attempt_timeout_s=5,
            deadline_s=60,
        )
        placing = asyncio.create_task(workload.run())
        leaving = asyncio.create_task(leave.wait())
        await asyncio.wait({placing, leaving}, return_when=asyncio.FIRST_COMPLETED)
        placing.cancel()
        leaving.cancel()
        await asyncio.gather(placing, leaving, return_exceptions=True)

    def run_all() -> None:
        with HistoryWriter(path) as history:
            asyncio.run(place(history))

    thread = threading.Thread(target=run_all, name=f"load-{run}")
    thread.start()
    try:
        assert loop_ready.wait(10)
        yield Load(installation, f"o-{_SEED}-{run}-", path, lambda: not thread.is_alive())
    finally:
        if thread.is_alive():
            loops[0].call_soon_threadsafe(leave.set)
        thread.join(30)


@contextmanager
def watched_pods(cluster: Cluster, component: str, file: Path) -> Iterator[Callable[[], Ended]]:
    """Record every state of a component's pods; what is called gives how those ended that are gone."""
    words = cluster.command(
        "get", "pods", f"--selector=app.kubernetes.io/component={component}",
        "--watch", "--output-watch-events", "--output=json",
    )  # fmt: skip
    with file.open("w") as output, subprocess.Popen(words, stdout=output) as process:
        try:
            yield lambda: _ended(file.read_text())
        finally:
            process.terminate()
            process.wait(10)


Ended = Mapping[str, int | None]
"""Exit code by pod; None where nobody saw it."""


def _ended(text: str) -> Ended:
    codes: dict[str, int | None] = {}
    stayed: set[str] = set()
    gone: set[str] = set()
    for event in _documents(text):
        name = event["object"]["metadata"]["name"]
        if "deletionTimestamp" not in event["object"]["metadata"]:
            stayed.add(name)
        for container in event["object"]["status"].get("containerStatuses", ()):
            if ended := container["state"].get("terminated"):
                codes[name] = int(ended["exitCode"])
        if event["type"] == "DELETED":
            gone.add(name)
    # A pod that was leaving when the watch began left for another reason, e.g. an upgrade before it.
    return {name: codes.get(name) for name in gone & stayed}


def _documents(text: str) -> Iterator[dict[str, Any]]:
    """JSON documents one after the other; the last may not be complete yet."""
    decoder, at = json.JSONDecoder(), 0
    while at < len(text):
        try:
            document, at = decoder.raw_decode(text, at)
        except ValueError:
            return
        yield document
        at += len(text[at:]) - len(text[at:].lstrip())
