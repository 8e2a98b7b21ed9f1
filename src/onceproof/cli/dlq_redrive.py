"""`onceproof dlq redrive`: ask, send back, and say what is left."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from onceproof.cli.dlq_display import counted, forecast_view, looking, redriving, summary_view
from onceproof.cli.dlq_session import (
    HOLD_S,
    PATIENCE_S,
    Consumer,
    DatabaseUrl,
    Endpoint,
    Exit,
    Hold,
    Json,
    Queue,
    Region,
    Retention,
    dead_letters,
    errors,
    fail,
    judge_of,
    print_json,
    results,
    run,
    warn,
    warn_elsewhere,
)
from onceproof.dlq import (
    CAME_AGAIN,
    AuditLogError,
    DeadLetters,
    Fate,
    Judge,
    Only,
    Redrive,
    RedriveSettings,
    Summary,
    Sweep,
    check_settings,
    forecast,
    open_audit_log,
    read_trail,
)

_DAY_S = 86400.0


def redrive_command(
    *,
    queue: Queue = "orders",
    endpoint_url: Endpoint = None,
    region: Region = None,
    rate: Annotated[float, typer.Option("--rate", min=0.01, help="Messages per second.")] = 10.0,
    most: Annotated[
        int | None,
        typer.Option(
            "--max", min=1, help="Messages at most, resumptions included.", show_default="all"
        ),
    ] = None,
    only: Annotated[
        Only, typer.Option("--only", help="not-charged leaves what is in the inbox already.")
    ] = Only.ALL,
    past_dedup_window: Annotated[
        bool,
        typer.Option(
            "--past-dedup-window",
            help="Also events that are older than the inbox remembers. They may be charged again.",
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, and change nothing.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    audit: Annotated[
        Path | None,
        typer.Option(
            "--audit",
            envvar="ONCEPROOF_DLQ_AUDIT",
            help="Audit log to append to. A redrive in it that did not finish is resumed.",
            show_default="onceproof-redrive-<queue>.jsonl",
            dir_okay=False,
        ),
    ] = None,
    database_url: DatabaseUrl = None,
    consumer: Consumer = "payments",
    inbox_retention: Retention = None,
    hold: Hold = HOLD_S,
    as_json: Json = False,
) -> None:
    """Send messages back to their queue, at a rate.

    A message is deleted from the DLQ when the queue has confirmed it. The
    bytes are the same and so is the event id: what was charged already is
    absorbed by the inbox.

    Each step is in the audit log before it is taken. If it is killed, run
    the same command again: nothing is lost, and what was confirmed is not
    sent again.

    Events that are older than the inbox remembers are refused, because they
    may be charged again. Messages that are no events are left.

    For example

        onceproof dlq redrive --dry-run

        onceproof dlq redrive --rate 1 --max 10

        onceproof dlq redrive --rate 50 --only not-charged --yes

    Exit code: 0; 1 messages are left that were refused or came back; 3 it
    ended early, run it again; 2 it was not possible.
    """
    settings = RedriveSettings(
        rate_per_s=rate,
        most=most,
        only=only,
        past_dedup_window=past_dedup_window,
        patience_s=hold + PATIENCE_S,
    )
    log = audit or Path(f"onceproof-redrive-{queue}.jsonl")

    @asynccontextmanager
    async def opened() -> AsyncGenerator[tuple[DeadLetters, Judge]]:
        async with (
            dead_letters(queue, endpoint_url, region, hold) as letters,
            judge_of(letters, database_url, consumer, inbox_retention) as judge,
        ):
            check_settings(settings, judge)
            yield letters, judge

    async def look() -> Exit:
        async with opened() as (letters, judge):
            return await _forecast(letters, judge, settings, as_json)

    async def question() -> str:
        async with opened() as (letters, _):
            return await _question(letters, settings)

    async def work() -> Exit:
        async with opened() as (letters, judge):
            summary = await _redrive(letters, judge, settings, log)
        if as_json:
            print_json(asdict(summary) | {"audit": str(log)})
        else:
            results.print(summary_view(summary, str(log)))
        return _exit_of(summary, judge)

    if dry_run:
        raise typer.Exit(run(look()))
    if not yes:
        # Asked outside of the event loop, or Ctrl-C would not end the question.
        _confirm(run(question()), log)
    raise typer.Exit(run(work()))


async def _forecast(
    letters: DeadLetters, judge: Judge, settings: RedriveSettings, as_json: bool
) -> Exit:
    depth = await letters.depth()
    with looking(errors, depth.total) as progress:
        found = await forecast(Sweep(letters), judge, settings, progress)
    if as_json:
        print_json(found.as_json())
    else:
        results.print(forecast_view(found))
        warn_elsewhere(found.elsewhere)
    return _refused(found.left, judge)


async def _question(letters: DeadLetters, settings: RedriveSettings) -> str:
    depth = await letters.depth()
    return (
        f"Send up to {_total(depth.total, settings)} of {counted(depth.total)} from "
        f"{letters.name} to {letters.source.name}, {settings.rate_per_s:g} a second?"
    )


def _confirm(question: str, log: Path) -> None:
    if not sys.stdin.isatty():
        raise fail("nobody is there to ask; give --yes, or look with --dry-run", Exit.USAGE)
    try:
        unfinished = read_trail(log, missing_ok=True).open
        if unfinished:
            typer.echo(f"{unfinished} in {log} did not finish; it is resumed", err=True)
        if not typer.confirm(question, err=True):
            raise fail("nothing was done", Exit.USAGE)
    except AuditLogError as error:
        raise fail(str(error), Exit.USAGE) from error
    except typer.Abort:
        raise typer.Exit(130) from None


async def _redrive(
    letters: DeadLetters, judge: Judge, settings: RedriveSettings, log: Path
) -> Summary:
    depth = await letters.depth()
    with (
        open_audit_log(log) as audit,
        redriving(errors, _total(depth.total, settings)) as progress,
        _stop_on_signals() as stop,
    ):
        return await Redrive(letters, judge, audit, settings, on_progress=progress).run(stop)


def _total(messages: int, settings: RedriveSettings) -> int:
    return messages if settings.most is None else min(messages, settings.most)


@contextmanager
def _stop_on_signals() -> Iterator[asyncio.Event]:
    """An event that SIGINT and SIGTERM set: the batch in hand is finished and the rest given back."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    signals = (signal.SIGINT, signal.SIGTERM)
    # Not possible on Windows, nor outside of the main thread.
    with suppress(NotImplementedError, RuntimeError, ValueError):
        for number in signals:
            loop.add_signal_handler(number, stop.set)
    try:
        yield stop
    finally:
        with suppress(NotImplementedError, RuntimeError, ValueError):
            for number in signals:
                loop.remove_signal_handler(number)


def _exit_of(summary: Summary, judge: Judge) -> Exit:
    code = _refused(summary.left, judge)
    if again := summary.left.get(CAME_AGAIN):
        warn(
            f"came to the DLQ again, or second copies of an event that was sent: {counted(again)}. Is "
            "what failed mended? See the reasons: onceproof dlq list"
        )
        code = Exit.LEFT
    return Exit.INCOMPLETE if summary.stopped else code


def _refused(left: Mapping[str, int], judge: Judge) -> Exit:
    if malformed := left.get(Fate.MALFORMED):
        warn(f"no events, stay in the DLQ: {counted(malformed)}. See: onceproof dlq list")
    past = left.get(Fate.PAST_WINDOW)
    if not past:
        return Exit.DONE
    horizon = judge.horizon
    warn(
        f"refused: {counted(past)}, because the event is older than "
        f"{max(horizon.max_age_s, 0) / _DAY_S:.2f} days ({horizon.why}), or has no time, so the inbox "
        "may have forgotten that it was charged. Ask the payment provider; where a second charge is "
        "impossible or acceptable, give --past-dedup-window"
    )
    return Exit.LEFT
