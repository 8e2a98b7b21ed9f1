"""Runs the cells that are still to be measured, several at a time, and writes each down at once.

Cells mostly wait: for a visibility timeout, a restart, a quiet window. So several run side by side on
the same Postgres and SQS servers, each with databases and queues of its own.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Final, Protocol

import asyncpg

from onceproof.errors import OnceproofError
from onceproof_chaos.ablation.results import MAX_ATTEMPTS, Cell, CellResult
from onceproof_chaos.admin_client import AdminError
from onceproof_chaos.backend import BackendError
from onceproof_chaos.jsonl import Appender, RunFolderError

CELL_TIMEOUT_S: Final = 300.0
_GIVE_UP_AFTER: Final = 3
"""Cells in a row that cannot be carried out: by then it is not the cells' fault."""
MAX_PARALLEL: Final = 8
"""Cells at a time; more would need more connections than an embedded Postgres takes."""
_FAILURES: Final = (
    AdminError, BackendError, OnceproofError, OSError, RunFolderError, TimeoutError,
    asyncpg.PostgresError, asyncpg.InterfaceError,
)  # fmt: skip

RunOne = Callable[[Cell, int], Awaitable[CellResult]]
"""Measures a cell; the second argument is the attempt."""


class AblationError(OnceproofError):
    """The ablation cannot go on; what was measured is kept."""


class Watcher(Protocol):
    """Told how the ablation gets on."""

    def began(self, cell: Cell) -> None:
        """A cell is being measured."""

    def ended(self, result: CellResult) -> None:
        """A cell was measured; unless the result is final, it will be once more."""


def default_parallel() -> int:
    """Cells side by side: two for each core, because they mostly wait."""
    return max(1, min(MAX_PARALLEL, 2 * (os.cpu_count() or 1)))


def unfinished(
    cells: Iterable[Cell], results: Mapping[Cell, Sequence[CellResult]]
) -> list[tuple[Cell, int]]:
    """What is still to be measured, each with the number of its next attempt."""
    todo = []
    for cell in cells:
        known = results.get(cell, ())
        if not known:
            todo.append((cell, 1))
        elif not known[-1].final:
            todo.append((cell, min(known[-1].attempt + 1, MAX_ATTEMPTS)))
    return todo


async def run_cells(
    todo: Iterable[tuple[Cell, int]],
    measure: RunOne,
    log: Appender,
    *,
    parallel: int,
    watch: Watcher,
) -> None:
    """Measure cells, each once more when it is inconclusive.

    Args:
        todo: cells, each with the attempt to begin with; see `unfinished`.
        measure: measures one.
        log: gets each result when it is there.
        parallel: cells at a time.
        watch: told of each.

    Raises:
        AblationError: several cells in a row could not be carried out.
    """
    waiting = deque(todo)
    failures = 0

    async def work() -> None:
        nonlocal failures
        while waiting:
            cell, attempt = waiting.popleft()
            watch.began(cell)
            result = await _measure(measure, cell, attempt)
            log.append(result.as_json())
            watch.ended(result)
            failures = failures + 1 if result.error else 0
            if failures >= _GIVE_UP_AFTER:
                raise AblationError(
                    f"{failures} cells in a row could not be carried out, the last one {cell}: "
                    f"{' '.join(result.reasons)}"
                )
            if not result.final and attempt < MAX_ATTEMPTS:
                waiting.append((cell, attempt + 1))

    try:
        async with asyncio.TaskGroup() as workers:
            for _ in range(parallel):
                workers.create_task(work())
    except BaseExceptionGroup as several:
        raise several.exceptions[0] from None


async def _measure(measure: RunOne, cell: Cell, attempt: int) -> CellResult:
    """A result in any case: a cell that cannot be carried out is inconclusive, and says why."""
    try:
        async with asyncio.timeout(CELL_TIMEOUT_S):
            return await measure(cell, attempt)
    except _FAILURES as error:
        reason = str(error) or f"{type(error).__name__} after {CELL_TIMEOUT_S:.0f} s"
        return CellResult(cell, attempt, reasons=(f"Not carried out: {reason}",), error=True)


__all__ = [
    "MAX_PARALLEL",
    "AblationError",
    "RunOne",
    "Watcher",
    "default_parallel",
    "run_cells",
    "unfinished",
]
