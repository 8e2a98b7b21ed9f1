"""One run: arm -> load -> disarm -> drain -> check, and a run folder that holds all of it."""

from __future__ import annotations

import asyncio
import platform
import shlex
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, Protocol, Self

import aiohttp

from onceproof.crashpoints import CRASH_POINTS
from onceproof.variants import Fixes, parse_variant
from onceproof_chaos import jsonl
from onceproof_chaos.backend import ProcessBackend, Role
from onceproof_chaos.drain import Drain
from onceproof_chaos.environment import Servers, Stage, connect, stage
from onceproof_chaos.evidence import collect
from onceproof_chaos.faultlog import FaultEvent
from onceproof_chaos.history import HistoryWriter
from onceproof_chaos.nemesis import Nemesis
from onceproof_chaos.plan import Plan, build_plan
from onceproof_chaos.runfolder import RunFolder, RunInfo
from onceproof_chaos.verdict import Verdict
from onceproof_chaos.workload import Workload, generate

_PACKAGES: Final = ("onceproof", "sqlalchemy", "asyncpg", "aiobotocore", "moto")


@dataclass(frozen=True, slots=True)
class CampaignSettings:
    """What a run does. Times in seconds.

    Args:
        variant: naive, hardened or an ablation.
        orders: size of the workload.
        seed: of workload and plan.
        broker: sqs.
        kills_per_point: kills by crash point.
        stalls: consumers that stand still past the visibility timeout.
        dropped: publishes that fail.
        unknown: publishes whose outcome is unknown.
        provider_timeouts: captures whose answer never comes.
        rate_per_s: orders per second that the clients place.
        clients: orders in flight at most.
        replicas: processes per service.
        visibility_s: visibility timeout; short, so that a run does not wait for long.
        max_receive_count: deliveries before the DLQ; high, because a message may be in a process that
            dies of somebody else's fault again and again.
        drain_timeout_s: for the queue to become quiet.
    """

    variant: str
    orders: int
    seed: int
    broker: str = "sqs"
    kills_per_point: Mapping[str, int] = field(
        default_factory=lambda: dict.fromkeys(CRASH_POINTS, 4)
    )
    stalls: int = 2
    dropped: int = 2
    unknown: int = 2
    provider_timeouts: int = 2
    rate_per_s: float = 25.0
    clients: int = 16
    replicas: Mapping[Role, int] = field(
        default_factory=lambda: {
            Role.PROVIDER: 1,
            Role.CONSUMER: 2,
            Role.RELAY: 2,
            Role.PRODUCER: 2,
        }
    )
    visibility_s: float = 3.0
    max_receive_count: int = 50
    drain_timeout_s: float = 120.0

    def __post_init__(self) -> None:
        parse_variant(self.variant)

    @property
    def fixes(self) -> Fixes:
        """Which fixes are on."""
        return parse_variant(self.variant)

    def plan(self) -> Plan:
        """The faults of the run.

        Raises:
            ValueError: they do not fit into the workload.
        """
        return build_plan(
            self.seed,
            self.orders,
            kills_per_point=self.kills_per_point,
            stalls=self.stalls,
            dropped=self.dropped,
            unknown=self.unknown,
            provider_timeouts=self.provider_timeouts,
            stall_s=self.visibility_s + 2,
        )

    def command(self) -> str:
        """The command line that repeats the run."""
        points = [point for point, kills in self.kills_per_point.items() if kills]
        options: dict[str, object] = {
            "--variant": self.variant,
            "--orders": self.orders,
            "--seed": self.seed,
            "--kills-per-point": max(self.kills_per_point.values(), default=0),
            "--points": ",".join(points) or "none",
            "--stalls": self.stalls,
            "--dropped": self.dropped,
            "--unknown": self.unknown,
            "--provider-timeouts": self.provider_timeouts,
            "--rate": self.rate_per_s,
        }
        words = [word for option, value in options.items() for word in (option, str(value))]
        return shlex.join(["onceproof", "campaign", "run", *words])


class Progress(Protocol):
    """Told how a run gets on; every method may be called often."""

    def phase(self, text: str) -> None:
        """What is being done now."""

    def order_finished(self) -> None:
        """A client is done with its order."""

    def fault(self, event: FaultEvent) -> None:
        """The nemesis saw or did something."""


async def run_campaign(
    settings: CampaignSettings,
    where: Servers,
    root: Path,
    progress: Progress,
    *,
    plan: Plan | None = None,
) -> tuple[RunFolder, Verdict]:
    """Run once, and judge it from the run folder.

    Args:
        settings: of the run.
        where: Postgres and SQS.
        root: folder that gets the run folder.
        progress: told how it gets on.
        plan: the faults, where they are not those of `settings`.

    Raises:
        BackendError: a service did not start.
        ConfigurationError: servers cannot be used.
        ValueError: the faults do not fit into the workload.
    """
    plan = plan or settings.plan()
    run = RunFolder.create(root, settings.variant, settings.seed)
    run.write_plan(plan)
    began = time.time()
    progress.phase("creating databases and queues")
    async with AsyncExitStack() as stack:
        place = await stack.enter_async_context(
            stage(
                where,
                run.path.name.replace("-", "_").lower(),
                visibility_s=settings.visibility_s,
                max_receive_count=settings.max_receive_count,
            )
        )
        broker = await stack.enter_async_context(connect(where))
        drain = Drain(place, broker, window_s=settings.visibility_s + 0.5)
        faults = stack.enter_context(_FaultLog(run, progress))
        started, drain_reason = await _carry_out(
            settings, plan, place, run, drain, faults, progress
        )
        ended = time.time()
        progress.phase("collecting evidence")
        await collect(
            run.evidence_dir,
            database_url=place.database_url,
            provider_database_url=place.provider_database_url,
            dlq=await drain.dead_letters(),
        )
    run.spans_path.touch()
    run.write_info(
        RunInfo(
            seed=settings.seed,
            variant=settings.variant,
            fixes=settings.fixes.as_dict(),
            orders=settings.orders,
            settings=_printable(settings),
            versions=_versions(place.postgres_version),
            command=settings.command(),
            started_at=started,
            ended_at=ended,
            duration_s=time.time() - began,
            drained=drain_reason is None,
            drain_reason=drain_reason,
        )
    )
    verdict = run.judge()
    run.write_verdict(verdict)
    return run, verdict


async def _carry_out(
    settings: CampaignSettings,
    plan: Plan,
    place: Stage,
    run: RunFolder,
    drain: Drain,
    faults: _FaultLog,
    progress: Progress,
) -> tuple[float, str | None]:
    """Load under faults until all is quiet; when the load began, and why the drain gave up."""
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(aiohttp.ClientSession())
        backend = ProcessBackend(environments(settings, place, run), run.logs, http)
        stack.push_async_callback(backend.stop)
        nemesis = Nemesis(plan, backend, settings.fixes, http, faults.append)
        stack.push_async_callback(nemesis.stop)
        progress.phase("starting services")
        await nemesis.start(settings.replicas)
        progress.phase("placing orders under faults")
        started = time.time()
        with HistoryWriter(run.history_path) as history:
            workload = Workload(
                generate(settings.seed, settings.orders),
                lambda: [i.http_url for i in backend.instances(Role.PRODUCER) if i.http_url],
                history,
                rate_per_s=settings.rate_per_s,
                concurrency=settings.clients,
                seed=settings.seed,
                on_finished=lambda _: progress.order_finished(),
            )
            async with _guarded(nemesis):
                await workload.run()
                progress.phase("waiting for the last faults")
                await drain.until_quiet(
                    timeout_s=settings.drain_timeout_s,
                    idle=lambda: nemesis.idle,
                    enough=lambda: not nemesis.pending and nemesis.idle,
                )
                await nemesis.disarm()
                progress.phase("draining")
                reason = await drain.until_quiet(
                    timeout_s=settings.drain_timeout_s, idle=lambda: nemesis.idle
                )
        progress.phase("stopping services")
        return started, reason


@asynccontextmanager
async def _guarded(nemesis: Nemesis) -> AsyncIterator[None]:
    """Cancel the block when the nemesis itself fails: what it does not see proves nothing."""
    try:
        async with asyncio.TaskGroup() as group:
            guard = group.create_task(nemesis.supervise())
            yield
            guard.cancel()
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None


def environments(
    settings: CampaignSettings, place: Stage, run: RunFolder
) -> dict[Role, dict[str, str]]:
    """The services' configuration for a run: as in production, with shorter times."""
    shared = {
        **place.servers.aws,
        "ONCEPROOF_DATABASE_URL": place.database_url,
        "ONCEPROOF_VARIANT": settings.variant,
        "ONCEPROOF_SPANS_FILE": str(run.spans_path),
        "ONCEPROOF_SQS_REGION": place.servers.region,
        "ONCEPROOF_QUEUE": place.queue,
        "ONCEPROOF_LOG_LEVEL": "INFO",
    }
    if place.servers.sqs_endpoint is not None:
        shared["ONCEPROOF_SQS_ENDPOINT_URL"] = place.servers.sqs_endpoint
    visibility_s = settings.visibility_s
    return {
        Role.PRODUCER: shared,
        Role.RELAY: shared
        | {
            "ONCEPROOF_LEASE_S": str(visibility_s),
            "ONCEPROOF_BACKOFF_S": "0.2",
            "ONCEPROOF_BACKOFF_MAX_S": "2",
        },
        Role.CONSUMER: shared
        | {
            "ONCEPROOF_VISIBILITY_S": str(visibility_s),
            "ONCEPROOF_WAIT_S": "5",
            "ONCEPROOF_BACKOFF_S": "0.2",
            "ONCEPROOF_BACKOFF_MAX_S": "2",
            "ONCEPROOF_PROVIDER_TIMEOUT_S": str(visibility_s / 2),
        },
        Role.PROVIDER: shared
        | {
            "ONCEPROOF_DATABASE_URL": place.provider_database_url,
            "ONCEPROOF_LATENCY_MS": "5",
            "ONCEPROOF_JITTER_MS": "10",
            "ONCEPROOF_WITHHOLD_S": str(visibility_s),
        },
    }


class _FaultLog:
    """Writes the nemesis' events to the run folder and to the progress display."""

    def __init__(self, run: RunFolder, progress: Progress) -> None:
        self._lines = jsonl.Appender(run.faults_path)
        self._progress = progress

    def append(self, event: FaultEvent) -> None:
        self._lines.append(event.as_json())
        self._progress.fault(event)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()


def _printable(settings: CampaignSettings) -> dict[str, Any]:
    document = asdict(settings)
    document["replicas"] = {role.value: count for role, count in settings.replicas.items()}
    return document


def _versions(postgres: str) -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "postgres": postgres,
        **{name: version(name) for name in _PACKAGES},
    }
