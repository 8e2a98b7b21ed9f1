"""A whole proof: the control first, then every fault alone, several runs at a time, and the judgement.

The control tells what there is to break: whether the other system was called, and which tables were
written. When it breaks by itself, or a consumer does not start, the rest is not tried.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import aiohttp
import asyncpg

from onceproof.errors import ConfigurationError, OnceproofError
from onceproof_chaos import jsonl
from onceproof_chaos.admin_client import AdminError
from onceproof_chaos.backend import BackendError
from onceproof_chaos.conduct import versions_of
from onceproof_chaos.environment import Servers
from onceproof_chaos.prove.cell import Run
from onceproof_chaos.prove.facts import Facts
from onceproof_chaos.prove.ground import Ground, open_ground
from onceproof_chaos.prove.invariants import evaluate
from onceproof_chaos.prove.messages import Published, make_messages
from onceproof_chaos.prove.points import CONTROL, Act, Cell, matrix
from onceproof_chaos.prove.settings import ProveSettings
from onceproof_chaos.prove.verdict import Judged, ProveResult, Status, judge, judge_cell
from onceproof_chaos.runfolder import RunFolder, RunFolderError

_FILE: Final = "prove.json"
_CONTROL: Final = Cell(CONTROL, Act.NONE)
_FAILURES: Final = (
    AdminError, OSError, aiohttp.ClientError, asyncpg.PostgresError, asyncpg.InterfaceError,
)  # fmt: skip
"""Of servers, files and processes: nobody's bug, so no traceback."""
_BREAKS_OFF: Final = (OnceproofError, BackendError, *_FAILURES)
"""What ends a run but not the proof."""


class Observer(Protocol):
    """Told how a proof gets on."""

    def planned(self, runs: int) -> None:
        """So many runs are to come, the control included."""

    def finished(self, judged: Judged) -> None:
        """One run is over."""


class Unobserved:
    """For who does not look."""

    def planned(self, runs: int) -> None:
        """Ignored."""

    def finished(self, judged: Judged) -> None:
        """Ignored."""


async def prove(
    settings: ProveSettings, where: Servers, root: Path, observer: Observer | None = None
) -> ProveResult:
    """Break a consumer at every point, each fault alone, and say which one breaks an invariant.

    Args:
        settings: what to prove.
        where: Postgres and SQS.
        root: folder that gets the run folder.
        observer: told how it gets on.

    Raises:
        ConfigurationError: schema, invariants, data or target cannot be used, or a server fails.
        BackendError: the consumer does not start.
        ValueError: a point does not exist for this kind of target.
    """
    try:
        return await _prove(settings, where, root, observer or Unobserved())
    except _FAILURES as error:
        raise ConfigurationError(f"the proof broke off: {_said(error)}") from error


async def _prove(
    settings: ProveSettings, where: Servers, root: Path, observer: Observer
) -> ProveResult:
    messages = make_messages(settings)
    folder = RunFolder.create(root, "prove", settings.seed)
    async with open_ground(where, f"onceproof_prove_{secrets.token_hex(4)}", settings) as ground:
        await evaluate(ground.template_url, settings.invariants)  # a typing error shows at once
        _write_settings(folder, ground)
        work = _Work(ground, messages, folder, observer)
        observer.planned(len(matrix(settings.kind, effects=False, tables=(), only=settings.points)))
        control = await work.run(_CONTROL, 0)
        runs = [control]
        if judge_cell(control).status is Status.HELD:
            cells = matrix(
                settings.kind,
                effects=control.effects > 0,
                tables=control.written,
                inbox=settings.inbox,
                only=settings.points,
            )
            observer.planned(len(cells) + 1)
            runs += await work.all(cells)
    result = judge(runs, str(folder.path))
    _write(folder, "result.json", result.as_json())
    return result


def judge_folder(path: Path) -> ProveResult:
    """Judge a proof again from its run folder alone.

    Raises:
        RunFolderError: it is no folder of a proof, or one of its files is missing.
    """
    document = jsonl.read_document(path / _FILE)
    order = jsonl.read_document(path / "result.json").get("cells", [])
    try:
        cells = [Cell(cell["point"], Act(cell["action"]), cell["detail"]) for cell in order]
        runs = [Facts.from_json(jsonl.read_document(_evidence(path, cell))) for cell in cells]
    except (KeyError, TypeError, ValueError) as error:
        raise RunFolderError(f"{path} is not the folder of a proof: {error}") from None
    if not runs:
        raise RunFolderError(f"{path} holds no runs of {document.get('settings')}")
    return judge(runs, str(path))


class _Work:
    """Carries out cells, each in a place of its own."""

    def __init__(
        self,
        ground: Ground,
        messages: Sequence[Published],
        folder: RunFolder,
        observer: Observer,
    ) -> None:
        self._ground = ground
        self._messages = messages
        self._folder = folder
        self._observer = observer
        self._free = asyncio.Semaphore(ground.parallel)

    async def all(self, cells: Sequence[Cell]) -> list[Facts]:
        """Run cells side by side; in their order."""
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._guarded(cell, number))
                for number, cell in enumerate(cells, start=1)
            ]
        return [task.result() for task in tasks]

    async def run(self, cell: Cell, number: int) -> Facts:
        """Run one cell, and keep what it showed."""
        logs = self._folder.logs / cell.slug
        logs.mkdir()
        with jsonl.Appender(self._folder.faults_path) as log:
            async with self._ground.place(number) as place:
                run = Run(
                    cell,
                    self._ground,
                    place,
                    self._messages,
                    logs,
                    lambda event: log.append(event.as_json()),
                )
                facts = await run.facts()
        self._keep(facts)
        return facts

    async def _guarded(self, cell: Cell, number: int) -> Facts:
        async with self._free:
            try:
                return await self.run(cell, number)
            except _BREAKS_OFF as error:
                facts = Facts(cell, error=_said(error))
                self._keep(facts)
                return facts

    def _keep(self, facts: Facts) -> None:
        _write(self._folder, str(_evidence(Path(), facts.cell)), facts.as_json())
        self._observer.finished(judge_cell(facts))


def _said(error: BaseException) -> str:
    return str(error) or type(error).__name__


def _evidence(path: Path, cell: Cell) -> Path:
    return path / "evidence" / f"{cell.slug}.json"


def _write_settings(folder: RunFolder, ground: Ground) -> None:
    document = {
        "settings": ground.settings.as_json(),
        "command": ground.settings.command(),
        "versions": versions_of(ground.postgres_version),
        "tables": list(ground.tables),
    }
    _write(folder, _FILE, document)


def _write(folder: RunFolder, name: str, document: dict[str, Any]) -> None:
    text = json.dumps(document, indent=2, ensure_ascii=False, default=str)
    jsonl.write_atomic(folder.path / name, f"{text}\n")


__all__ = ["Observer", "Unobserved", "judge_folder", "prove"]
