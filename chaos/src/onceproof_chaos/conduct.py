"""What every run does, wherever it runs: arm, load, wait, disarm, drain; then gather and judge.

A campaign on one machine brings its own databases, processes and clients; one in a cluster finds pods
that outlive it, and its clients are a Job. What makes the verdict is the same for both, so it is here.
"""

from __future__ import annotations

import asyncio
import contextlib
import platform
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final, Protocol, Self

from onceproof_chaos import jsonl
from onceproof_chaos.admin_client import AdminError
from onceproof_chaos.backend import Role
from onceproof_chaos.drain import Drain
from onceproof_chaos.environment import asyncpg_url
from onceproof_chaos.evidence import collect
from onceproof_chaos.faultlog import FaultEvent
from onceproof_chaos.nemesis import Nemesis
from onceproof_chaos.runfolder import RunFolder, RunInfo
from onceproof_chaos.settings import CampaignSettings
from onceproof_chaos.verdict import Verdict

_PACKAGES: Final = ("onceproof", "sqlalchemy", "asyncpg", "aiobotocore", "moto", "confluent-kafka")


class Progress(Protocol):
    """Told how a run gets on; every method may be called often."""

    def phase(self, text: str) -> None:
        """What is being done now."""

    def order_finished(self) -> None:
        """A client is done with its order."""

    def fault(self, event: FaultEvent) -> None:
        """The nemesis saw or did something."""


class Unwatched:
    """Progress at which nobody looks."""

    def phase(self, text: str) -> None:
        """Nothing."""

    def order_finished(self) -> None:
        """Nothing."""

    def fault(self, event: FaultEvent) -> None:
        """Nothing; it is in the run folder."""


class FaultLog:
    """Writes the nemesis' events to the run folder and to the progress display.

    Args:
        run: gets `faults.jsonl`.
        progress: told of each event.
    """

    def __init__(self, run: RunFolder, progress: Progress) -> None:
        self._lines = jsonl.Appender(run.faults_path)
        self._progress = progress

    def append(self, event: FaultEvent) -> None:
        """Record an event; give this to the nemesis as its listener."""
        self._lines.append(event.as_json())
        self._progress.fault(event)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()


async def conduct(
    nemesis: Nemesis,
    drain: Drain,
    place_orders: Callable[[], Awaitable[None]],
    *,
    replicas: Mapping[Role, int],
    drain_timeout_s: float,
    progress: Progress,
) -> str | None:
    """Place orders under faults, and wait until all is quiet. Nothing stays armed, whatever happens.

    Args:
        nemesis: not started yet; it is stopped at the end.
        drain: of the same databases and queue.
        place_orders: returns when each order has an outcome; writes the history.
        replicas: services of each role.
        drain_timeout_s: seconds for the last faults to be reached, and again for the drain.
        progress: told how it gets on.

    Returns:
        Why the drain gave up, None when all is quiet.

    Raises:
        BackendError: a service did not start.
        AdminError: a service has chaos switched off, or gives answers that cannot be used.
    """
    progress.phase("starting services")
    try:
        await nemesis.start(replicas)
        async with _guarded(nemesis):
            progress.phase("placing orders under faults")
            await place_orders()
            progress.phase("waiting for the last faults")
            await drain.until_quiet(
                timeout_s=drain_timeout_s,
                idle=lambda: nemesis.idle,
                enough=lambda: not nemesis.pending and nemesis.idle,
            )
            await nemesis.disarm()
            progress.phase("draining")
            return await drain.until_quiet(timeout_s=drain_timeout_s, idle=lambda: nemesis.idle)
    except BaseException:
        # Pods outlive an aborted run.
        with contextlib.suppress(AdminError):
            await nemesis.disarm()
        raise
    finally:
        await nemesis.stop()


async def conclude(
    run: RunFolder,
    settings: CampaignSettings,
    *,
    database_url: str,
    provider_database_url: str,
    dead_letters: Iterable[Mapping[str, Any]],
    drain_reason: str | None,
    began: float,
    versions: Mapping[str, str],
    since: float = 0.0,
    command: str | None = None,
) -> Verdict:
    """Gather the evidence, write what is missing in the run folder, and judge it.

    Plan and faults must be in the folder; history and spans are empty where nobody wrote them. Also
    an aborted run can be concluded: with a `drain_reason` it is never a pass.

    Args:
        run: the folder.
        settings: of the run.
        database_url: of the pipeline.
        provider_database_url: of the payment provider's ledger.
        dead_letters: what is in the dead-letter queue, see `Drain.dead_letters`; messages of other
            runs' orders are left out.
        drain_reason: why the drain gave up, None when it did not.
        began: Unix time in seconds at which the run began.
        versions: of what the run was made with, see `versions_of`.
        since: Unix time in seconds by the database's clock; older rows belong to earlier runs in the
            same database.
        command: the command line that repeats the run, where it is not that of `settings`.

    Raises:
        OSError, asyncpg.PostgresError: a database cannot be read.
        RunFolderError: a file is missing or corrupt.
    """
    ended = time.time()
    # One that names no order may be ours; it counts for nobody, but it should be seen.
    ours = {None, *run.plan().order_ids()}
    await collect(
        run.evidence_dir,
        database_url=asyncpg_url(database_url),
        provider_database_url=asyncpg_url(provider_database_url),
        dlq=[row for row in dead_letters if row.get("order_id") in ours],
        since=since,
    )
    run.spans_path.touch()
    run.history_path.touch()
    run.write_info(
        RunInfo(
            seed=settings.seed,
            variant=settings.variant,
            fixes=settings.fixes.as_dict(),
            orders=settings.orders,
            settings=settings.as_json(),
            versions=dict(versions),
            command=command or settings.command(),
            started_at=_load_began(run, began),
            ended_at=ended,
            duration_s=time.time() - began,
            drained=drain_reason is None,
            drain_reason=drain_reason,
        )
    )
    verdict = run.judge()
    run.write_verdict(verdict)
    return verdict


def versions_of(postgres: str, **others: str) -> dict[str, str]:
    """Versions for `run.json`: Python, Postgres by the server's own word, packages, and others."""
    found = {"python": platform.python_version(), "postgres": postgres}
    for name in _PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found | others


@contextlib.asynccontextmanager
async def _guarded(nemesis: Nemesis) -> AsyncIterator[None]:
    """Cancel the block when the nemesis itself fails: what it does not see proves nothing."""
    try:
        async with asyncio.TaskGroup() as group:
            guard = group.create_task(nemesis.supervise())
            yield
            guard.cancel()
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None


def _load_began(run: RunFolder, otherwise: float) -> float:
    """When the first client sent its first request."""
    return min((entry.started_at for entry in run.history().finished.values()), default=otherwise)


__all__ = ["FaultLog", "Progress", "Unwatched", "conclude", "conduct", "versions_of"]
