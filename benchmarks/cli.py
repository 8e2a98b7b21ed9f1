"""Run everything: warm up, then alternate our run and pgbench's, so that drift hits both."""

from __future__ import annotations

import asyncio
import json
import subprocess
from pathlib import Path
from typing import Annotated, Final, Protocol

import typer
import uvloop
from rich.console import Console

from benchmarks import consuming, effect, relaying
from benchmarks.ceiling import find_pgbench
from benchmarks.database import Database, database
from benchmarks.figures import Comparison, InvalidRunError, Sample
from benchmarks.footprint import crash_point_ns, imports_rss_mb, own_peak_rss_mb
from benchmarks.growth import measure as memory_growth
from benchmarks.report import Results
from benchmarks.service_memory import consumer_memory
from onceproof.errors import OnceproofError
from onceproof.postgres import create_engine

_WARM_UP_ORDERS: Final = 1000
_CLIENTS: Final = 8
_RSS_ORDERS: Final = 2000
_errors: Final = Console(stderr=True)


class _Side(Protocol):
    async def measure(self, amount: int, /) -> Sample: ...


def bench(
    *,
    repeats: Annotated[int, typer.Option(min=1, help="Timed runs of each side.")] = 5,
    seconds: Annotated[int, typer.Option(min=1, max=60, help="Length of a run, roughly.")] = 4,
    clients: Annotated[int, typer.Option(min=1, max=64, help="Connections.")] = _CLIENTS,
    quick: Annotated[bool, typer.Option("--quick", help="Two runs of one second each.")] = False,
    growth: Annotated[
        int, typer.Option(min=0, help="Watch a consumer's memory over so many messages, too.")
    ] = 0,
    rss: Annotated[
        bool, typer.Option("--rss", help="Memory of a real consumer service under load, too.")
    ] = False,
    database_url: Annotated[
        str | None,
        typer.Option(envvar="ONCEPROOF_BENCH_DATABASE_URL", help="Default: an embedded Postgres."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Results as JSON on stdout.")] = False,
) -> None:
    """Orders per second through consumer and relay, as a ratio to pgbench running the same SQL.

    Exit code 1: a run was invalid (an order lost or charged twice), or could not be made.
    """
    if quick:
        repeats, seconds = 2, 1
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            results = runner.run(
                _measure(
                    database_url,
                    repeats=repeats,
                    seconds=seconds,
                    clients=clients,
                    rss=rss,
                    growth=growth,
                )
            )
    except (InvalidRunError, OnceproofError) as error:
        _errors.print(f"[red]error:[/] {error}", highlight=False, soft_wrap=True)
        raise typer.Exit(1) from None
    results.show(_errors)
    _errors.print(f"written to {results.save()}", style="dim", soft_wrap=True)
    if as_json:
        typer.echo(json.dumps(results.as_json(), indent=2))


async def _measure(
    database_url: str | None, *, repeats: int, seconds: int, clients: int, rss: bool, growth: int
) -> Results:
    pgbench = find_pgbench()
    async with database(database_url) as where:
        comparisons = await _compare_all(
            where, pgbench, repeats=repeats, seconds=seconds, clients=clients
        )
        grown = None
        if growth:
            _errors.print(f"memory over {growth} messages ...", style="dim")
            await consuming.empty(where)
            grown = await memory_growth(where.library_url(), growth)
    peak = own_peak_rss_mb()
    service = None
    if rss:
        _errors.print("consumer service under load ...", style="dim")
        service = await consumer_memory(_RSS_ORDERS, database_url)
    return Results(
        comparisons=comparisons,
        parameters={"repeats": repeats, "seconds": seconds, "clients": clients},
        postgres_version=where.version,
        postgres_settings=where.settings,
        pgbench=await asyncio.to_thread(_version_of, pgbench),
        crash_point_ns=await asyncio.to_thread(crash_point_ns),
        imports_rss_mb=await asyncio.to_thread(imports_rss_mb),
        peak_rss_mb=peak,
        service=service,
        growth=grown,
    )


async def _compare_all(
    where: Database, pgbench: Path, *, repeats: int, seconds: int, clients: int
) -> list[Comparison]:
    engine = create_engine(
        where.library_url(), application_name="onceproof-bench", pool_size=clients
    )
    connections = effect.Counting(
        where.library_url(), application_name="onceproof-bench", size=clients
    )
    comparisons = []
    try:
        for batch, of_pgbench in ((1, 1), (10, 10), (50, 10)):
            name = f"effect in SQL, {batch} per commit"
            _errors.print(f"{name} ...", style="dim")
            one_trip = effect.Ours(where, connections, clients=clients, batch=batch)
            same = effect.Ceiling(where, pgbench, clients=clients, batch=of_pgbench)
            orders = await _calibrated(one_trip, seconds)
            await same.measure(1)
            comparisons.append(
                await _alternate(name, one_trip, orders, same, seconds, repeats=repeats)
            )
        for name, batched in (
            ("consumer, 1 per commit", False),
            ("consumer, 10 per commit", True),
        ):
            ours = consuming.Ours(where, engine, clients=clients, batched=batched)
            ceiling = consuming.Ceiling(where, pgbench, clients=clients, batched=batched)
            _errors.print(f"{name} ...", style="dim")
            orders = await _calibrated(ours, seconds)
            await ceiling.measure(1)
            comparisons.append(
                await _alternate(name, ours, orders, ceiling, seconds, repeats=repeats)
            )
        name = "relay, 100 per batch"
        _errors.print(f"{name} ...", style="dim")
        relay = relaying.Ours(where, engine)
        relay_ceiling = relaying.Ceiling(where, pgbench)
        rows = await _calibrated(relay, seconds)
        await relay_ceiling.measure(_WARM_UP_ORDERS)
        comparisons.append(
            await _alternate(name, relay, rows, relay_ceiling, rows, repeats=repeats)
        )
    finally:
        await connections.close()
        await engine.dispose()
    return comparisons


async def _calibrated(side: _Side, seconds: int) -> int:
    """Warm up, and how many orders take about `seconds`; a multiple of every batch size."""
    await side.measure(_WARM_UP_ORDERS)
    warm = await side.measure(_WARM_UP_ORDERS)
    return max(round(warm.orders_per_s * seconds / 100) * 100, _WARM_UP_ORDERS)


async def _alternate(
    name: str, ours: _Side, our_amount: int, ceiling: _Side, their_amount: int, *, repeats: int
) -> Comparison:
    mine, theirs = [], []
    for _ in range(repeats):
        mine.append(await ours.measure(our_amount))
        theirs.append(await ceiling.measure(their_amount))
    return Comparison(name, mine, theirs)


def _version_of(pgbench: Path) -> str:
    done = subprocess.run([str(pgbench), "--version"], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def main() -> None:
    """Command line."""
    typer.run(bench)
