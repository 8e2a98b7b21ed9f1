"""What every `onceproof dlq` command needs: its options, its connections, and how it ends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager
from enum import IntEnum
from typing import Annotated, Any, Final, TypeVar

import typer
from rich.console import Console
from rich.markup import escape

from onceproof.dlq import HeldDeadLetters, Horizon, Inbox, Judge, open_dead_letters
from onceproof.errors import ConfigurationError, OnceproofError
from onceproof.postgres import create_engine

T = TypeVar("T")

errors: Final = Console(stderr=True)
"""Progress, warnings and errors."""
results: Final = Console()
"""What was asked for."""


HOLD_S: Final = 60.0
"""Default of `--hold`."""
PATIENCE_S: Final = 5.0
"""Beyond the hold: how long to wait for what a killed command held."""


class Exit(IntEnum):
    """Exit codes."""

    DONE = 0
    LEFT = 1
    """Done, and messages are left that somebody must decide on; or the message was not found."""
    USAGE = 2
    """Nothing could be done; the error says what to mend."""
    INCOMPLETE = 3
    """Not all of it was done or seen; the same command again goes on."""


Queue = Annotated[
    str,
    typer.Option(
        "--queue",
        envvar="ONCEPROOF_QUEUE",
        help="The queue that the messages came from. Its redrive policy names the DLQ.",
    ),
]
Endpoint = Annotated[
    str | None,
    typer.Option(
        "--endpoint-url",
        envvar="ONCEPROOF_SQS_ENDPOINT_URL",
        help="Of an SQS-compatible server.",
        show_default="AWS",
    ),
]
Region = Annotated[
    str | None,
    typer.Option(
        "--region",
        envvar="ONCEPROOF_SQS_REGION",
        help="AWS region.",
        show_default="of the AWS configuration",
    ),
]
Hold = Annotated[
    float,
    typer.Option(
        "--hold",
        min=1,
        max=3600,
        help="Seconds after which messages are visible again, should this command be killed.",
    ),
]
DatabaseUrl = Annotated[
    str | None,
    typer.Option(
        "--database-url",
        envvar="ONCEPROOF_DATABASE_URL",
        help="Of the consumer's inbox: postgresql://user:password@host:5432/name",
        show_default=False,
    ),
]
Consumer = Annotated[
    str,
    typer.Option(
        "--consumer",
        envvar="ONCEPROOF_CONSUMER_NAME",
        help="Name under which the consumer claims events in the inbox.",
    ),
]
Retention = Annotated[
    float | None,
    typer.Option(
        "--inbox-retention",
        envvar="ONCEPROOF_INBOX_RETENTION_S",
        min=1,
        help="Seconds for which the inbox remembers an event, as the consumer has it.",
        show_default="what the queue's own retention demands",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]


@asynccontextmanager
async def dead_letters(
    queue: str, endpoint_url: str | None, region: str | None, hold_s: float
) -> AsyncGenerator[HeldDeadLetters]:
    """The DLQ of a queue on SQS; everything looked at is given back at the end.

    Raises:
        ConfigurationError: the SQS extra is not installed, or there is no such queue or DLQ.
        BrokerUnavailableError: the broker did not answer.
    """
    try:
        # Imported here: `onceproof schema` must not need a broker's client.
        from onceproof.brokers.sqs import SqsBroker  # noqa: PLC0415
    except ImportError as error:
        raise ConfigurationError(
            f"the SQS client is not installed: pip install 'onceproof[sqs]' ({error})"
        ) from error
    async with (
        SqsBroker.connect(endpoint_url=endpoint_url, region=region) as broker,
        open_dead_letters(
            broker.subscriber(queue), broker.subscriber, broker, hold_s=hold_s
        ) as letters,
    ):
        yield letters


@asynccontextmanager
async def judge_of(
    letters: HeldDeadLetters,
    database_url: str | None,
    consumer: str,
    inbox_retention_s: float | None,
) -> AsyncGenerator[Judge]:
    """A judge that asks the consumer's inbox, where there is a database.

    Raises:
        ConfigurationError: the database has no inbox.
        DatabaseUnavailableError: it cannot be reached.
    """
    horizon = Horizon.of(letters.source, inbox_retention_s)
    if not database_url:
        yield Judge(horizon, None)
        return
    engine = create_engine(database_url, application_name="onceproof-dlq", pool_size=1)
    try:
        inbox = Inbox(engine, consumer)
        if not await inbox.check():
            warn(
                f"consumer {consumer!r} has no event in this inbox. If it has been running, this is "
                "the wrong name or the wrong database: see --consumer and --database-url"
            )
        yield Judge(horizon, inbox.processed)
    finally:
        await engine.dispose()


def warn(text: str) -> None:
    """Print a warning on stderr."""
    errors.print(f"[yellow]warning:[/] {escape(text)}", highlight=False, soft_wrap=True)


def warn_elsewhere(count: int) -> None:
    """Say that messages were not seen."""
    if count:
        warn(
            f"not seen: about {count}, held by somebody else (a redrive, another look, a command that "
            "was killed)"
        )


def print_json(document: dict[str, Any]) -> None:
    """Print a result for scripts, on one line."""
    typer.echo(json.dumps(document))


def fail(text: str, code: Exit) -> typer.Exit:
    """Print an error on stderr; raise what this returns."""
    errors.print(f"[red]error:[/] {escape(text)}", highlight=False, soft_wrap=True)
    return typer.Exit(code)


def run(work: Coroutine[Any, Any, T], *, stopped: str = "what was looked at is visible again") -> T:
    """Run a command's work; what the caller can mend is an error message and exit code 2.

    Args:
        work: of the command.
        stopped: what an interrupt leaves behind, in words.
    """
    try:
        return asyncio.run(work)
    except OnceproofError as error:
        raise fail(str(error), Exit.USAGE) from error
    except (typer.Exit, typer.Abort):
        raise
    except KeyboardInterrupt:
        errors.print(f"stopped; {stopped}")
        raise typer.Exit(130) from None
    except Exception:  # noqa: BLE001 - the last line of defence of a command
        # 1 means that messages are left, so what broke here must not end with it.
        errors.print_exception(show_locals=False)
        raise typer.Exit(Exit.USAGE) from None
