"""`onceproof outbox`: the replication slot of change data capture, and what to do when it is lost."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer

from onceproof.cli.dlq_session import Endpoint, Exit, Json, errors, print_json, results, run, warn
from onceproof.cli.progress import progress_bars
from onceproof.cli.schema import DatabaseUrl
from onceproof.errors import ConfigurationError
from onceproof.outbox.reconcile import Gap, Reconciled, Reconciler
from onceproof.outbox.settings import RelaySettings
from onceproof.outbox.slot import DEFAULT_SLOT, Slot, SlotState, SlotStatus
from onceproof.postgres import create_engine

if TYPE_CHECKING:
    from onceproof.service import Broker, BrokerSettings

outbox_app = typer.Typer(
    help="The outbox read by change data capture: its replication slot, and a lost one.",
    no_args_is_help=True,
)
slot_app = typer.Typer(help="Make the replication slot, look at it, drop it.", no_args_is_help=True)
outbox_app.add_typer(slot_app, name="slot")

_REPEAT: Final = "the same command again goes on"
Name = Annotated[str, typer.Option("--slot", help="Name of slot and publication.")]


@slot_app.command("create")
def create_command(
    database_url: DatabaseUrl,
    slot: Name = DEFAULT_SLOT,
    destination: Annotated[
        str | None,
        typer.Option(
            help="Only events for this queue or topic. A sink that knows one queue needs it.",
            show_default="all events",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Make publication and slot, and register them. Safe to repeat.

    From then on the server keeps WAL until somebody reads the slot: start the
    reader soon, and limit it with max_slot_wal_keep_size. A slot that nobody
    will read is to be dropped: onceproof outbox slot drop.
    """
    _show(run(_create(database_url, slot, destination), stopped=_REPEAT), as_json=as_json)


@slot_app.command("status")
def status_command(
    database_url: DatabaseUrl, slot: Name = DEFAULT_SLOT, as_json: Json = False
) -> None:
    """Look at the slot. Exit code 0: it is there; 1: it is lost, never made, or not registered."""
    status = run(_status(database_url, slot), stopped=_REPEAT)
    _show(status, as_json=as_json)
    if status.state not in {SlotState.READ, SlotState.IDLE}:
        raise typer.Exit(Exit.LEFT)


@slot_app.command("drop")
def drop_command(
    database_url: DatabaseUrl, slot: Name = DEFAULT_SLOT, as_json: Json = False
) -> None:
    """Make an end of it, to go back to polling: slot, publication, registration. Safe to repeat.

    Stop Debezium before, and start the polling relays after it: events that the
    slot has sent are marked as published first, and the relays send the rest.
    """
    marked = run(_drop(database_url, slot), stopped=_REPEAT)
    if as_json:
        print_json({"slot": slot, "marked": marked})
    else:
        results.print(
            f"slot {slot} is gone; {marked} events that it had sent are marked", highlight=False
        )


@outbox_app.command("reconcile")
def reconcile_command(
    database_url: DatabaseUrl,
    slot: Name = DEFAULT_SLOT,
    broker: Annotated[
        Literal["sqs", "kafka"], typer.Option(envvar="ONCEPROOF_BROKER", help="Where to send.")
    ] = "sqs",
    endpoint_url: Endpoint = None,
    region: Annotated[
        str, typer.Option("--region", envvar="ONCEPROOF_SQS_REGION", help="AWS region.")
    ] = "eu-central-1",
    bootstrap: Annotated[
        str,
        typer.Option(
            "--kafka-bootstrap", envvar="ONCEPROOF_KAFKA_BOOTSTRAP", help="host:port of Kafka."
        ),
    ] = "127.0.0.1:9092",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, and change nothing.")
    ] = False,
    give_up_s: Annotated[
        float,
        typer.Option("--give-up", min=1, help="Seconds without success until the rest is left."),
    ] = 60.0,
    as_json: Json = False,
) -> None:
    """Find the events that nobody has sent and send them; make a lost slot anew before that.

    Stop the reader of a lost slot first, or let it fail: it does, with the
    initial statement that the manual has. It may be killed and repeated. What
    was sent although nobody recorded it is sent twice and absorbed by the inbox.

    Exit code 0: nothing is left; 1: some are left, run it again.
    """
    where = {
        "broker": broker,
        "sqs_endpoint_url": endpoint_url,
        "sqs_region": region,
        "kafka_bootstrap": bootstrap,
    }
    done = run(
        _reconcile(database_url, slot, where, dry_run=dry_run, give_up_s=give_up_s),
        stopped=_REPEAT,
    )
    if as_json:
        print_json(_json(done))
    elif isinstance(done, Gap):
        results.print(_gap_in_words(slot, done), highlight=False)
    else:
        anew = f"slot {slot} was lost and made anew; " if done.replaced else ""
        results.print(
            f"{anew}{done.found} events not sent, {done.sent} sent now, {done.left} left",
            highlight=False,
        )
        if done.why_left:
            warn(f"the broker's last refusal: {done.why_left}")
    left = done.rows if isinstance(done, Gap) else done.left
    if left or (isinstance(done, Gap) and done.state is SlotState.LOST):
        raise typer.Exit(Exit.LEFT)


async def _create(database_url: str, name: str, destination: str | None) -> SlotStatus:
    async with _slot(database_url, name) as slot:
        return await slot.create(destination)


async def _status(database_url: str, name: str) -> SlotStatus:
    async with _slot(database_url, name) as slot:
        return await slot.status()


async def _drop(database_url: str, name: str) -> int:
    async with _slot(database_url, name) as slot:
        return await slot.drop()


async def _reconcile(
    database_url: str,
    name: str,
    where: Mapping[str, str | None],
    *,
    dry_run: bool,
    give_up_s: float,
) -> Gap | Reconciled:
    engine = create_engine(database_url, application_name="onceproof-outbox", pool_size=4)
    try:
        slot = Slot(engine, name)
        gap = await Reconciler(engine, slot).gap()
        if dry_run:
            return gap
        settings, connect_broker = _broker(database_url, where)
        reconciler = Reconciler(
            engine,
            slot,
            settings=RelaySettings(system=settings.messaging_system),
            give_up_s=give_up_s,
        )
        with progress_bars(errors) as bars:
            task = bars.add_task("sending", total=gap.rows, note="")
            async with connect_broker(settings) as broker:
                return await reconciler.run(broker, lambda sent: bars.advance(task, sent))
    finally:
        await engine.dispose()


def _broker(
    database_url: str, where: Mapping[str, str | None]
) -> tuple[BrokerSettings, Callable[[BrokerSettings], AbstractAsyncContextManager[Broker]]]:
    try:
        # Imported here: the other commands must need neither a broker's client nor settings.
        from pydantic import ValidationError  # noqa: PLC0415

        from onceproof.service import BrokerSettings, connect_broker  # noqa: PLC0415
        from onceproof.service.settings import explain  # noqa: PLC0415
    except ImportError as error:
        raise ConfigurationError(
            f"to send needs more: pip install 'onceproof[service,sqs,kafka]' ({error})"
        ) from error
    values: dict[str, Any] = {"database_url": database_url, **where}
    try:
        return BrokerSettings(**values), connect_broker
    except ValidationError as error:
        raise ConfigurationError(explain(error)) from None


@asynccontextmanager
async def _slot(database_url: str, name: str) -> AsyncGenerator[Slot]:
    engine = create_engine(database_url, application_name="onceproof-outbox", pool_size=1)
    try:
        yield Slot(engine, name)
    finally:
        await engine.dispose()


def _show(status: SlotStatus, *, as_json: bool) -> None:
    if as_json:
        print_json(_json(status))
        return
    what = f"slot {status.slot}: {status.state}"
    if status.state is SlotState.LOST:
        what += f", {status.why_lost}. Run onceproof outbox reconcile"
    elif status.state is SlotState.ABSENT:
        what += ". Make it: onceproof outbox slot create"
    else:
        what += (
            f", for {status.destination or 'all events'}; {status.lag_bytes} bytes of WAL not "
            f"confirmed, {status.retained_bytes} kept"
        )
        if status.safe_bytes is None:
            warn("max_slot_wal_keep_size is not set: a reader that stands still fills the disk")
        else:
            what += f", {status.safe_bytes} until it is lost"
    results.print(what, highlight=False, soft_wrap=True)


def _gap_in_words(slot: str, gap: Gap) -> str:
    since = f", the oldest from {gap.oldest:%Y-%m-%d %H:%M:%S %Z}" if gap.oldest else ""
    lost = f"slot {slot} is lost: {gap.why_lost}; it would be made anew. "
    return f"{lost if gap.state is SlotState.LOST else ''}{gap.rows} events would be sent{since}"


def _json(document: SlotStatus | Gap | Reconciled) -> dict[str, Any]:
    return {
        name: value.isoformat() if hasattr(value, "isoformat") else value
        for name, value in asdict(document).items()
    }
