"""`onceproof prove`: break somebody's own consumer at every point, and ask their own invariant."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Annotated

import typer

from onceproof_chaos.cli.options import (
    DatabaseUrl,
    Exit,
    Json,
    RunDir,
    Seed,
    SqsEndpoint,
    errors,
    results,
    run,
)
from onceproof_chaos.cli.prove_display import ProveBars, findings, result_tables
from onceproof_chaos.environment import servers
from onceproof_chaos.prove.invariants import parse
from onceproof_chaos.prove.points import Kind
from onceproof_chaos.prove.proof import prove
from onceproof_chaos.prove.settings import DATA, EVENT_TYPE, ProveSettings
from onceproof_chaos.prove.verdict import ProveResult


def prove_command(  # noqa: PLR0917 - Typer turns them into named options
    target: Annotated[
        str | None,
        typer.Argument(
            help="Import path of your handler, e.g. my_service:handle.", show_default=False
        ),
    ] = None,
    schema: Annotated[
        list[Path] | None,
        typer.Option(help="SQL that creates your tables; may be given several times.", exists=True),
    ] = None,
    invariant: Annotated[
        list[str] | None,
        typer.Option(
            help="SQL that finds what must not be: rows, or a number in a column `count`. As "
            "'SELECT ...', 'name=SELECT ...' or @file.sql; may be given several times."
        ),
    ] = None,
    batch: Annotated[
        bool, typer.Option("--batch", help="The target is handle_batch(session, deliveries).")
    ] = False,
    own_loop: Annotated[
        bool, typer.Option("--own-loop", help="The target is a consumer loop: consume(runtime).")
    ] = False,
    command: Annotated[
        str | None,
        typer.Option(
            help="A command that runs your consumer, in any language, instead of a target."
        ),
    ] = None,
    no_inbox: Annotated[
        bool,
        typer.Option("--no-inbox", help="Your handler deduplicates itself; the library does not."),
    ] = False,
    data: Annotated[
        str,
        typer.Option(
            help="JSON template of an event's data, or @file; knows $key, $number and $id."
        ),
    ] = DATA,
    events: Annotated[
        str | None,
        typer.Option(help="Import path of events(count, rng) that makes the events instead."),
    ] = None,
    event_type: Annotated[str, typer.Option(help="CloudEvents type of the events.")] = EVENT_TYPE,
    raw: Annotated[
        bool, typer.Option("--raw", help="Send the data alone, without its CloudEvents envelope.")
    ] = False,
    messages: Annotated[int, typer.Option(help="Events in each run.", min=2, max=1000)] = 20,
    seed: Seed = 1,
    point: Annotated[
        list[str] | None,
        typer.Option(help="Prove this point only; may be given several times.", show_default="all"),
    ] = None,
    visibility: Annotated[
        float, typer.Option(help="Visibility timeout of the queue in seconds.", min=1, max=60)
    ] = 2.0,
    parallel: Annotated[int, typer.Option(help="Runs at the same time.", min=1, max=32)] = 6,
    path: Annotated[
        Path, typer.Option(help="Folder to import from.", file_okay=False, exists=True)
    ] = Path(),
    run_dir: RunDir = Path("runs"),
    database_url: DatabaseUrl = None,
    sqs_endpoint: SqsEndpoint = None,
    as_json: Json = False,
) -> None:
    r"""Break your own consumer at every crash point, and say which one breaks your invariant.

    Your handler runs in processes of its own against your tables, on an embedded Postgres and SQS.
    Each fault is a run of its own: killed, stalled past the visibility timeout, or its work dropped,
    before the handler, before the commit and before the ack; and every event published twice. At the
    end of each run your invariants are asked. prove.published holds what was published.

        onceproof prove my_service:handle --schema schema.sql --data '{"order_id": "$key"}' \
            --invariant 'once=SELECT p.key, count(s.*) FROM prove.published p
                         LEFT JOIN shipments s ON s.order_id = p.key
                         GROUP BY p.key HAVING count(s.*) <> 1'

    Exit code: 0 all held, 1 an invariant broke, 3 inconclusive, 2 it could not be run.
    """
    settings = run(
        _settings(
            target=target,
            command=command,
            kinds={Kind.BATCH: batch, Kind.LOOP: own_loop, Kind.COMMAND: command is not None},
            invariants=invariant or [],
            data=data,
            schema=tuple(schema or ()),
            path=path,
            messages=messages,
            seed=seed,
            event_type=event_type,
            events=events,
            raw=raw,
            inbox=not no_inbox,
            points=tuple(point or ()),
            visibility_s=visibility,
            parallel=parallel,
        )
    )
    result = run(_run(settings, run_dir, database_url, sqs_endpoint))
    if as_json:
        typer.echo(json.dumps(result.as_json()))
    else:
        results.print(*result_tables(result))
        for line in findings(result):
            results.print(line, highlight=False, soft_wrap=True)
    raise typer.Exit(Exit.of(result.verdict))


async def _settings(
    *,
    target: str | None,
    command: str | None,
    kinds: dict[Kind, bool],
    invariants: list[str],
    data: str,
    **values: object,
) -> ProveSettings:
    """Settings from options; bad ones are errors like any other."""
    chosen = [kind for kind, wanted in kinds.items() if wanted]
    if len(chosen) > 1:
        raise ValueError("--batch, --own-loop and --command exclude one another")
    if (target is None) == (command is None):
        raise ValueError("give either the import path of a handler or loop, or --command")
    kind = chosen[0] if chosen else Kind.HANDLER
    if data.startswith("@"):
        try:
            data = await asyncio.to_thread(Path(data[1:]).read_text, encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"the data template cannot be read: {error}") from None
    if kind is Kind.LOOP or kind is Kind.COMMAND:
        if not values["inbox"]:
            raise ValueError("--no-inbox is for handlers; an own loop has no inbox of the library")
        values["inbox"] = True
    return ProveSettings(
        target=target or command or "",
        kind=kind,
        invariants=parse(invariants),
        data=data.strip(),
        **values,  # type: ignore[arg-type]
    )


async def _run(
    settings: ProveSettings, run_dir: Path, database_url: str | None, sqs_endpoint: str | None
) -> ProveResult:
    with ProveBars(errors) as bars:
        async with servers(database_url=database_url, sqs_endpoint=sqs_endpoint) as where:
            return await prove(settings, where, run_dir, bars)


__all__ = ["prove_command"]
