"""`onceproof campaign workload`: the clients alone, for a Job in a cluster.

The clients must be outside of what they judge, also in a cluster, and what they were promised must
survive them: it is their standard output, which the node keeps.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Coroutine
from typing import Annotated, Any, Final

import typer

from onceproof_chaos.cli.display import workload_bar
from onceproof_chaos.cli.options import Exit, Seed, errors, run
from onceproof_chaos.history import HistoryWriter
from onceproof_chaos.workload import Workload, generate

_STOPPED: Final = 128


def workload(
    url: Annotated[
        list[str],
        typer.Option("--url", help="Base URL of a producer; give it several times for several."),
    ],
    orders: Annotated[int, typer.Option(help="Orders to place.", min=1)] = 300,
    seed: Seed = 1,
    run_name: Annotated[
        str,
        typer.Option("--run", help="Part of the order ids; a new one where a database lives on."),
    ] = "",
    rate: Annotated[float, typer.Option(help="Orders per second.", min=0.1)] = 25.0,
    concurrency: Annotated[int, typer.Option(help="Orders in flight at most.", min=1)] = 16,
) -> None:
    """Place seeded orders, and print what the client was promised: the lines of history.jsonl.

    For example

        onceproof campaign workload --orders 100 --seed 7 --run a1 --url http://localhost:8080

    Standard output holds the history and nothing else, one JSON object a line, each written at once.
    Progress goes to standard error, and only to a terminal: a pod's log mixes both.

    Exit code: 0 when every order has an outcome, 2 for input that cannot be used, 128 + its number
    after a signal; the history is valid also then.
    """
    stopped_by = run(_place(url, orders, seed, run_name, rate, concurrency))
    if stopped_by is not None:
        raise typer.Exit(_STOPPED + stopped_by)
    raise typer.Exit(Exit.PASS)


async def _place(
    urls: list[str], orders: int, seed: int, name: str, rate: float, concurrency: int
) -> int | None:
    """Place all orders; the signal that ended it early, if one did."""
    for url in urls:
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"{url!r} is no URL of a producer, such as http://localhost:8080")
    with workload_bar(errors, orders) as on_finished, HistoryWriter(sys.stdout) as history:
        clients = Workload(
            generate(seed, orders, name),
            lambda: urls,
            history,
            rate_per_s=rate,
            concurrency=concurrency,
            seed=seed,
            on_finished=lambda _: on_finished(),
        )
        return await _until_done_or_stopped(clients.run())


async def _until_done_or_stopped(work: Coroutine[Any, Any, None]) -> int | None:
    """Do the work, or give it up at a signal; the number of the signal."""
    loop = asyncio.get_running_loop()
    task = asyncio.create_task(work)
    received: list[int] = []

    def stop(number: int) -> None:
        received.append(number)
        task.cancel()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)
    try:
        await task
    except asyncio.CancelledError:
        if not received:
            raise
    return received[0] if received else None


__all__ = ["workload"]
