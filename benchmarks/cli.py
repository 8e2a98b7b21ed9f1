"""`make bench`: what it can be told, and its exit code."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, NoReturn

import typer
import uvloop
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from benchmarks.bench import Bench, Outcome, Scale, bench, run_contest
from benchmarks.ceiling import find_pgbench
from benchmarks.contest import Contest
from benchmarks.contests import Sizes, contests
from benchmarks.database import database
from benchmarks.figures import InvalidRunError
from benchmarks.footprint import crash_point_ns, imports_rss_mb
from benchmarks.page import render
from benchmarks.report import RESULTS, Footprint, Results
from benchmarks.service_memory import consumer_memory
from onceproof.errors import OnceproofError

_CLIENTS: Final = 8
_RSS_ORDERS: Final = 2000
_CUT: Final = "interrupted"
_errors: Final = Console(stderr=True)

_HELP: Final = """
Measure the pipeline against its physical ceilings, and against what one would take instead.

A contest has several contenders that do the same work on the same servers in turn (A B A B ...), and
asks for ratios of their medians. A run counts only if every order was charged exactly once; what cannot
be run here is reported with the reason. Results: a table, JSON, and one HTML page.

    make bench ARGS=--list                        what there is
    make bench ARGS="--only consumer --quick"     half a minute, to see that it works
    make bench                                    all of it, more than an hour
    make bench ARGS="--only relay --repeats 9"    narrower spreads
    make bench ARGS="--only outbox- --outbox-rows 10000000"

Commits are durable throughout: a server with fsync or synchronous_commit off, or a data directory in
memory, is refused. Compare ratios, not rates: a rate says as much about the machine as about the code.

Exit code 0: all runs were valid. 1: one was not (an order lost, or charged twice), it could not be
started, or it was interrupted; what was measured until then is kept. A goal that is missed is a result,
not an error.
"""


@dataclass(frozen=True, slots=True)
class _Asked:
    chosen: Sequence[Contest]
    scale: Scale
    database_url: str | None
    sqs_endpoint: str | None
    rss: bool


def main_command(
    *,
    only: Annotated[
        list[str] | None,
        typer.Option(help="Contests whose name has this in it; may be given more than once."),
    ] = None,
    contender: Annotated[
        list[str] | None,
        typer.Option(help="Contenders whose name has this in it; may be given more than once."),
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="List the contests and stop.")] = False,
    repeats: Annotated[int, typer.Option(min=1, help="Timed runs of each contender.")] = 5,
    seconds: Annotated[float, typer.Option(min=0.5, max=60, help="Length of a run, roughly.")] = 4,
    clients: Annotated[int, typer.Option(min=1, max=64, help="Connections.")] = _CLIENTS,
    quick: Annotated[bool, typer.Option("--quick", help="Two runs of one second each.")] = False,
    rss: Annotated[
        bool, typer.Option("--rss", help="Memory of a real consumer service under load, too.")
    ] = False,
    memory_messages: Annotated[
        int, typer.Option(min=1000, help="Messages of the contest `memory`.")
    ] = Sizes.memory_messages,
    outbox_rows: Annotated[
        int, typer.Option(min=1000, help="Rows of a large outbox; 1.5 kB of disk each.")
    ] = Sizes.outbox_rows,
    inbox_rows: Annotated[
        int, typer.Option(min=1000, help="Rows of a large inbox; 0.3 kB of disk each.")
    ] = Sizes.inbox_rows,
    burst: Annotated[
        int, typer.Option(min=1000, help="Orders of a burst, for change data capture.")
    ] = Sizes.burst,
    database_url: Annotated[
        str | None,
        typer.Option(envvar="ONCEPROOF_BENCH_DATABASE_URL", help="Default: an embedded Postgres."),
    ] = None,
    sqs_endpoint: Annotated[
        str | None,
        typer.Option(
            envvar="ONCEPROOF_BENCH_SQS_ENDPOINT", help="Default: ElasticMQ in a container."
        ),
    ] = None,
    output: Annotated[Path, typer.Option(help="Folder for JSON and HTML.")] = RESULTS,
    as_json: Annotated[bool, typer.Option("--json", help="Results as JSON on stdout.")] = False,
) -> None:
    """Filled in below."""
    if quick:
        repeats, seconds = min(repeats, 2), 1
    known = contests(Sizes(memory_messages, outbox_rows, inbox_rows, burst))
    chosen = [each for each in known if not only or any(part in each.name for part in only)]
    if not chosen:
        names = ", ".join(each.name for each in known)
        _fail(f"no contest has {' or '.join(only or [])!r} in its name; there are: {names}")
    if list_:
        _list(chosen, as_json=as_json)
        return
    scale = Scale(repeats, seconds, clients, tuple(contender or ()))
    asked = _Asked(chosen, scale, database_url, sqs_endpoint, rss)
    # A terminated benchmark puts its servers away as an interrupted one does; one in the background too,
    # which a shell starts with interrupts ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    before = signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            results = runner.run(_measure(asked))
    except (InvalidRunError, OnceproofError) as error:
        _fail(str(error))
    except KeyboardInterrupt:
        _fail("interrupted; nothing was written")
    finally:
        signal.signal(signal.SIGTERM, before)
    results.show(_errors)
    document = results.as_json()
    data, page = results.save(output, render(document))
    _errors.print(f"written to {data} and {page.name}", style="dim", soft_wrap=True)
    if as_json:
        typer.echo(json.dumps(document, indent=2))
    if results.invalid or any(each.why_not == _CUT for each in results.outcomes):
        raise typer.Exit(1)


main_command.__doc__ = _HELP


def _fail(text: str) -> NoReturn:
    _errors.print(f"[red]error:[/] {text}", highlight=False, soft_wrap=True)
    raise typer.Exit(1)


def _list(chosen: Sequence[Contest], *, as_json: bool) -> None:
    if as_json:
        typer.echo(
            json.dumps(
                [
                    {
                        "name": each.name,
                        "title": each.title,
                        "needs": each.needs,
                        "figures": sorted({q.figure for q in each.questions if q.figure}),
                    }
                    for each in chosen
                ],
                indent=2,
            )
        )
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("name", "figure", "what", "needs"):
        table.add_column(heading)
    for each in chosen:
        figures = sorted({q.figure for q in each.questions if q.figure})
        table.add_row(each.name, ", ".join(map(str, figures)), each.title, each.needs)
    Console().print(table)


async def _measure(asked: _Asked) -> Results:
    pgbench = find_pgbench()
    with Progress(
        TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(),
        TextColumn("[dim]{task.fields[step]}"), console=_errors, transient=True,
    ) as progress:  # fmt: skip
        overall = progress.add_task("contests", total=len(asked.chosen), step="starting Postgres")
        async with (
            database(asked.database_url) as where,
            bench(
                where, pgbench, asked.scale,
                lambda text: progress.update(overall, step=text), sqs_endpoint=asked.sqs_endpoint,
            ) as at,
        ):  # fmt: skip
            outcomes = []
            for contest in asked.chosen:
                try:
                    outcomes.append(await _show_contest(contest, at, progress))
                except asyncio.CancelledError:
                    # What was measured until then is kept; the rest says why it was not.
                    _uncancel()
                    done = len(outcomes)
                    outcomes += [Outcome(each, why_not=_CUT) for each in asked.chosen[done:]]
                    break
                progress.advance(overall)
            server = at.queue.what if at.queue else None
        progress.update(overall, step="memory and crash points")
        rss = asked.rss and not any(each.why_not == _CUT for each in outcomes)
        service = await consumer_memory(_RSS_ORDERS, asked.database_url) if rss else None
        return Results(
            outcomes=outcomes,
            parameters={
                "repeats": asked.scale.repeats,
                "seconds": asked.scale.seconds,
                "clients": asked.scale.clients,
            },
            postgres_version=where.version,
            postgres_settings=where.settings,
            pgbench=await asyncio.to_thread(_version_of, pgbench),
            queue_server=server,
            footprint=Footprint(
                await asyncio.to_thread(crash_point_ns),
                await asyncio.to_thread(imports_rss_mb),
                service,
            ),
        )


async def _show_contest(contest: Contest, at: Bench, progress: Progress) -> Outcome:
    task = progress.add_task(contest.name, total=None, step="")
    steps = 0

    def step(what: str) -> None:
        nonlocal steps
        steps += 1
        progress.update(task, completed=steps, step=what)

    outcome = await run_contest(contest, at, step)
    progress.remove_task(task)
    done = ", ".join(f"{name} {len(made)}" for name, made in outcome.samples.items())
    _errors.print(f"{contest.name}: {done or f'not run because: {outcome.why_not}'}", style="dim")
    return outcome


def _uncancel() -> None:
    task = asyncio.current_task()
    while task is not None and task.cancelling():
        task.uncancel()


def _version_of(pgbench: Path) -> str:
    done = subprocess.run([str(pgbench), "--version"], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def main() -> None:
    """Command line."""
    typer.run(main_command)
