"""`onceproof dlq`: look at a dead-letter queue, and copy it; `dlq_redrive` takes messages back."""

from __future__ import annotations

import random
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from onceproof.cli.dlq_display import counted, letter_view, looking, sample_view, survey_view
from onceproof.cli.dlq_redrive import redrive_command
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
    warn_elsewhere,
)
from onceproof.dlq import (
    Horizon,
    IncompleteSnapshotError,
    Judged,
    Sweep,
    find,
    sample,
    survey,
    write_snapshot,
)
from onceproof.errors import ConfigurationError

dlq_app = typer.Typer(
    no_args_is_help=True,
    help="""Look into a dead-letter queue, and take messages back.

    Looking takes nothing away: what was looked at is visible again when
    the command ends.

    [bold]Checklist before a redrive[/]

    1. What failed is mended, and the consumer runs. Otherwise it all comes
    back.

    2. [cyan]onceproof dlq list[/]: how many, how old, and why? One reason,
    or several?

    3. [cyan]onceproof dlq snapshot before.jsonl[/]: a copy, before anything
    is changed.

    4. [cyan]onceproof dlq sample 20[/]: would these be charged, or are they
    charged already? Then [cyan]show[/] one of each kind.

    5. [cyan]onceproof dlq redrive --dry-run[/]: what would be sent, and what
    would be left?

    6. [cyan]onceproof dlq redrive --rate 1 --max 10[/]: a few, slowly. Then
    look at dedup_hit_rate, and at the DLQ: did any come back?

    7. [cyan]onceproof dlq redrive --rate 50[/]: the rest, no faster than
    the consumer and the payment provider can take beside the daily load.
    If it is killed, the same command again goes on.
    """,
)


@dlq_app.command("list")
def list_command(
    queue: Queue = "orders",
    endpoint_url: Endpoint = None,
    region: Region = None,
    inbox_retention: Retention = None,
    hold: Hold = HOLD_S,
    as_json: Json = False,
) -> None:
    """How many messages there are, how old, and why.

    For example

        onceproof dlq list --queue orders --region eu-central-1

    Every message is looked at. Reasons that differ only in ids and numbers
    are counted together.

    Exit code: 0, or 2 when that was not possible.
    """

    async def work() -> None:
        async with dead_letters(queue, endpoint_url, region, hold) as letters:
            depth = await letters.depth()
            now = datetime.now(UTC)
            horizon = Horizon.of(letters.source, inbox_retention)
            with looking(errors, depth.total) as progress:
                found = await survey(Sweep(letters), horizon, now, progress)
        if as_json:
            about = {"queue": queue, "dead_letter": letters.name, "depth": asdict(depth)}
            groups = [group.as_json() for group in found.groups]
            print_json(about | asdict(found) | {"groups": groups})
            return
        results.print(survey_view(letters.name, depth, found, now))
        warn_elsewhere(found.elsewhere)

    run(work())


@dlq_app.command("show")
def show_command(
    message: Annotated[
        str, typer.Argument(help="Id of the message or of its event, or the event's key (order).")
    ],
    queue: Queue = "orders",
    endpoint_url: Endpoint = None,
    region: Region = None,
    database_url: DatabaseUrl = None,
    consumer: Consumer = "payments",
    inbox_retention: Retention = None,
    hold: Hold = HOLD_S,
    as_json: Json = False,
) -> None:
    """One message: why it is there, its body, and what a redrive would do.

    For example

        onceproof dlq show o-000042

    The first match is shown.

    Exit code: 0; 1 it is not in the DLQ; 3 it was not found, but somebody
    else holds messages; 2 it could not be looked for.
    """

    async def work() -> None:
        async with dead_letters(queue, endpoint_url, region, hold) as letters:
            depth = await letters.depth()
            sweep = Sweep(letters)
            with looking(errors, depth.total) as progress:
                letter = await find(sweep, message, progress)
            if letter is None:
                warn_elsewhere(sweep.elsewhere)
                code = Exit.INCOMPLETE if sweep.elsewhere else Exit.LEFT
                raise fail(f"{message} was not found in {letters.name}", code)
            async with judge_of(letters, database_url, consumer, inbox_retention) as judge:
                [judged] = await judge.judge([letter])
        if as_json:
            print_json(_judged_json(judged))
        else:
            results.print(letter_view(judged, datetime.now(UTC)))

    run(work())


@dlq_app.command("sample")
def sample_command(
    size: Annotated[int, typer.Argument(min=1, help="How many messages.")] = 20,
    queue: Queue = "orders",
    endpoint_url: Endpoint = None,
    region: Region = None,
    database_url: DatabaseUrl = None,
    consumer: Consumer = "payments",
    inbox_retention: Retention = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Of the choice.")] = None,
    hold: Hold = HOLD_S,
    as_json: Json = False,
) -> None:
    """A random sample, with what each message would do if redriven.

    would_charge: its event is not in the consumer's inbox. A consumer that
    died between the payment and its commit leaves such a message as well;
    then the provider's Idempotency-Key absorbs it.

    already_charged: it is in the inbox, which absorbs it.

    past_dedup_window: older than the inbox remembers. It may have been
    charged; ask the provider.

    malformed: no event. No consumer can process it.

    For example

        onceproof dlq sample 20 --database-url postgresql://...

    Exit code: 0, or 2 when that was not possible.
    """

    async def work() -> None:
        if not database_url:
            raise ConfigurationError(
                "what a message would do is in the inbox: give --database-url "
                "(ONCEPROOF_DATABASE_URL)"
            )
        async with (
            dead_letters(queue, endpoint_url, region, hold) as letters,
            judge_of(letters, database_url, consumer, inbox_retention) as judge,
        ):
            depth = await letters.depth()
            sweep = Sweep(letters)
            with looking(errors, depth.total) as progress:
                chosen = await sample(sweep, size, random.Random(seed), progress)  # noqa: S311
            sampled = await judge.judge(chosen)
        if as_json:
            documents = [_judged_json(judged) for judged in sampled]
            print_json({"elsewhere": sweep.elsewhere, "sample": documents})
            return
        results.print(sample_view(sampled, datetime.now(UTC)) if sampled else "no messages")
        warn_elsewhere(sweep.elsewhere)

    run(work())


@dlq_app.command("snapshot")
def snapshot_command(
    file: Annotated[Path, typer.Argument(help="New file; nothing is overwritten.")],
    queue: Queue = "orders",
    endpoint_url: Endpoint = None,
    region: Region = None,
    allow_incomplete: Annotated[
        bool,
        typer.Option("--allow-incomplete", help="Also when somebody else holds some messages."),
    ] = False,
    hold: Hold = HOLD_S,
    as_json: Json = False,
) -> None:
    """Copy every message with its body to a file, as JSON lines.

    The file appears when it is complete, and only its owner can read it.
    Its last line has the number of messages and a digest of the lines
    before.

    For example

        onceproof dlq snapshot before.jsonl

    Exit code: 0; 3 some messages could not be had, and nothing was written;
    2 it was not possible.
    """

    async def work() -> None:
        async with dead_letters(queue, endpoint_url, region, hold) as letters:
            depth = await letters.depth()
            sweep = Sweep(letters, patience_s=hold + PATIENCE_S)
            with looking(errors, depth.total) as progress:
                try:
                    written = await write_snapshot(
                        file, letters, sweep,
                        allow_incomplete=allow_incomplete, on_progress=progress,
                    )  # fmt: skip
                except IncompleteSnapshotError as error:
                    raise fail(str(error), Exit.INCOMPLETE) from None
        if as_json:
            print_json(asdict(written) | {"path": str(written.path)})
        else:
            typer.echo(f"{counted(written.messages)} in {written.path}")
            warn_elsewhere(written.elsewhere)

    run(work())


def _judged_json(judged: Judged) -> dict[str, Any]:
    return judged.letter.as_json() | {
        "fate": judged.fate,
        "charged": judged.charged,
        "past_dedup_window": judged.past_window,
    }


dlq_app.command("redrive")(redrive_command)
