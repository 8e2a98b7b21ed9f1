"""`onceproof topics`: the topics that a pipeline over Kafka needs."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated, Final

import tenacity
import typer
from rich.console import Console
from rich.markup import escape

from onceproof.errors import BrokerUnavailableError, OnceproofError

topics_app = typer.Typer(help="Create the topics of a pipeline over Kafka.", no_args_is_help=True)

_errors: Final = Console(stderr=True)
_PAUSE_S: Final = 1.0


@topics_app.callback()
def _group() -> None:
    """Create the topics of a pipeline over Kafka."""


@topics_app.command("create")
def create_command(
    topic: Annotated[str, typer.Argument(help="Topic of the events.")] = "orders",
    bootstrap: Annotated[
        str,
        typer.Option(
            "--bootstrap",
            envvar="ONCEPROOF_KAFKA_BOOTSTRAP",
            help="host:port, several with commas.",
        ),
    ] = "127.0.0.1:9092",
    partitions: Annotated[
        int, typer.Option(min=1, help="As many consumers can share the topic.")
    ] = 6,
    retention_s: Annotated[
        float, typer.Option("--retention-s", min=60, help="Seconds for which records are kept.")
    ] = 345_600,
    wait_s: Annotated[
        float, typer.Option("--wait-s", min=0, help="Seconds to wait for a cluster that starts.")
    ] = 0,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE", help="Further librdkafka settings, e.g. sasl.username=me."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")] = False,
) -> None:
    """Create TOPIC with TOPIC.retry and TOPIC.dlq, one replica each. What exists is left as it is."""
    given = dict(pair.partition("=")[::2] for pair in setting or ())
    if not all(given.values()):
        raise typer.BadParameter("has the form NAME=VALUE", param_hint="--setting")
    try:
        names = asyncio.run(_create(topic, bootstrap, partitions, retention_s, wait_s, given))
    except OnceproofError as error:
        _errors.print(f"[red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        raise typer.Exit(2) from None
    typer.echo(json.dumps(names) if as_json else "\n".join(f"{name}: exists" for name in names))


async def _create(
    topic: str,
    bootstrap: str,
    partitions: int,
    retention_s: float,
    wait_s: float,
    given: dict[str, str],
) -> list[str]:
    # Only here: who has no Kafka need not have its client.
    from onceproof.brokers.kafka import KafkaBroker, KafkaSettings, TopicPolicy  # noqa: PLC0415

    policy = TopicPolicy.of(topic)
    async with KafkaBroker.connect(KafkaSettings(bootstrap, security=given)) as broker:
        async for attempt in tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(BrokerUnavailableError),
            stop=tenacity.stop_after_delay(wait_s),
            wait=tenacity.wait_fixed(_PAUSE_S),
            reraise=True,
        ):
            with attempt:
                await broker.ensure_topic(
                    topic, partitions=partitions, retention_s=retention_s, policy=policy
                )
    return [topic, policy.retry or "", policy.dead_letter or ""]
