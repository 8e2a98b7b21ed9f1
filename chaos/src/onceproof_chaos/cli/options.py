"""Options that several commands share, and how a command ends."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from enum import IntEnum, StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import typer
from rich.console import Console
from rich.markup import escape

from onceproof.errors import ConfigurationError, OnceproofError
from onceproof.variants import parse_variant
from onceproof_chaos.backend.base import BackendError
from onceproof_chaos.environment import Open, servers
from onceproof_chaos.fetch import FetchError
from onceproof_chaos.kubectl import KubectlError
from onceproof_chaos.runfolder import RunFolderError
from onceproof_chaos.traces import TraceStoreError
from onceproof_chaos.verdict import Result

T = TypeVar("T")

errors: Final = Console(stderr=True)
"""Progress and errors."""
results: Final = Console()
"""What was asked for."""


class Exit(IntEnum):
    """Exit codes."""

    PASS = 0
    FAIL = 1
    USAGE = 2
    INCONCLUSIVE = 3

    @classmethod
    def of(cls, result: Result) -> Exit:
        """The exit code of a verdict."""
        return {Result.PASS: cls.PASS, Result.FAIL: cls.FAIL}.get(result, cls.INCONCLUSIVE)


def _known_variant(name: str) -> str:
    try:
        parse_variant(name)
    except ConfigurationError as error:
        raise typer.BadParameter(str(error)) from None
    return name


Variant = Annotated[
    str,
    typer.Option(
        "--variant",
        help="naive, hardened, or hardened-<fix> for hardened without that fix.",
        callback=_known_variant,
    ),
]
Seed = Annotated[
    int, typer.Option("--seed", help="Of workload and fault plan. Same seed, same plan.")
]
RunDir = Annotated[Path, typer.Option("--run-dir", help="Where run folders go.", file_okay=False)]
DatabaseUrl = Annotated[
    str | None,
    typer.Option(
        "--database-url",
        help="A real Postgres whose user may create databases, instead of the embedded one.",
        show_default="embedded",
    ),
]
SqsEndpoint = Annotated[
    str | None,
    typer.Option(
        "--sqs-endpoint",
        help="A real SQS endpoint such as ElasticMQ, instead of the embedded one.",
        show_default="embedded",
    ),
]


class BrokerKind(StrEnum):
    """Brokers that a pipeline can run on."""

    SQS = "sqs"
    KAFKA = "kafka"


BrokerOption = Annotated[BrokerKind, typer.Option("--broker", help="Message broker.")]
Transactions = Annotated[
    bool,
    typer.Option(
        "--transactions",
        help="Between relay and consumer a stage that moves orders in Kafka transactions.",
    ),
]


class RelayKind(StrEnum):
    """What moves events from the outbox to the broker."""

    POLLING = "polling"
    CDC = "cdc"


RelayOption = Annotated[
    RelayKind,
    typer.Option(
        "--relay", help="Our own, or Debezium reading the WAL, which needs Java 21 and Maven."
    ),
]
KafkaBootstrap = Annotated[
    str | None,
    typer.Option(
        "--kafka-bootstrap",
        metavar="HOST:PORT",
        help="A real Kafka, instead of an embedded one, which needs Java and Maven.",
        show_default="embedded",
    ),
]
Namespace = Annotated[
    str | None,
    typer.Option(
        "--namespace", "-n", help="Namespace of the installation.", show_default="current"
    ),
]
Context = Annotated[
    str | None, typer.Option("--context", help="Context of kubectl.", show_default="current")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]


def opening(
    database_url: str | None,
    sqs_endpoint: str | None,
    broker: BrokerKind,
    kafka_bootstrap: str | None,
    relay: RelayKind = RelayKind.POLLING,
) -> Open:
    """What a run starts for itself, from the options about servers."""
    return partial(
        servers,
        database_url=database_url,
        sqs_endpoint=sqs_endpoint,
        broker=broker,
        kafka_bootstrap=kafka_bootstrap,
        relay=relay.value,
    )


_MENDABLE: Final = (
    OnceproofError, BackendError, FetchError, KubectlError, RunFolderError, TraceStoreError, ValueError,
)  # fmt: skip


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a command's work; what a user can mend is an error message and exit code 2."""
    try:
        return asyncio.run(work)
    except _MENDABLE as error:
        errors.print(f"[red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        raise typer.Exit(Exit.USAGE) from error
    except Exception:  # noqa: BLE001 - the last line of defence of a command
        # 1 means that a breach was found, so what broke here must not end with it.
        errors.print_exception(show_locals=False)
        raise typer.Exit(Exit.USAGE) from None
    except KeyboardInterrupt:
        errors.print("stopped; services, databases and queues of the run are removed")
        raise typer.Exit(130) from None
