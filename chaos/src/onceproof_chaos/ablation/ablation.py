"""A whole ablation: the cells that were asked for, on servers of its own, in a folder that can go on."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import asyncpg

from onceproof.errors import ConfigurationError
from onceproof_chaos.ablation import markdown
from onceproof_chaos.ablation.basis import OVER_SQS, Basis
from onceproof_chaos.ablation.cell import CellRunner
from onceproof_chaos.ablation.faults import FAULTS, VISIBILITY_S
from onceproof_chaos.ablation.matrix import Matrix, build
from onceproof_chaos.ablation.prediction import VARIANTS
from onceproof_chaos.ablation.results import AblationFolder, Cell
from onceproof_chaos.ablation.run import Watcher, run_cells, unfinished
from onceproof_chaos.ablation.theory import TABLE
from onceproof_chaos.conduct import versions_of
from onceproof_chaos.environment import Servers, asyncpg_url, servers

DEFAULT_ORDERS: Final = 10


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be measured.

    Args:
        seeds: number of seeds.
        first_seed: from which they count up.
        variants: some of the basis'.
        faults: names, some of `faults.FAULTS`.
        orders: of each cell; None takes those of the folder, or the default.
        basis: the broker.
    """

    seeds: int = 1
    first_seed: int = 1
    variants: tuple[str, ...] = VARIANTS
    faults: tuple[str, ...] = tuple(FAULTS)
    orders: int | None = None
    basis: Basis = OVER_SQS

    def cells(self) -> list[Cell]:
        """All cells, seed by seed, so that an aborted ablation has whole matrices of some seeds."""
        return [
            Cell(self.first_seed + number, variant, fault)
            for number in range(self.seeds)
            for fault in self.faults
            for variant in self.variants
        ]

    def command(self, orders: int) -> str:
        """The command line that measures it anew."""
        words = ["onceproof", "ablate", "--seeds", str(self.seeds), "--orders", str(orders)]
        if self.first_seed != 1:
            words += ["--first-seed", str(self.first_seed)]
        if self.variants != self.basis.variants:
            words += ["--variants", ",".join(self.variants)]
        if self.faults != tuple(FAULTS):
            words += ["--faults", ",".join(self.faults)]
        return shlex.join([*words, *self.basis.words])


@dataclass(frozen=True, slots=True)
class Place:
    """Where an ablation runs and writes.

    Args:
        run_dir: gets the folder of a new ablation.
        resume: folder of an earlier one, whose cells are not measured again.
        pages: Markdown pages to write.
        parallel: cells at a time.
        database_url: of a Postgres server; None starts an embedded one.
        sqs_endpoint: of an SQS server; None starts an embedded one.
        kafka_bootstrap: of a Kafka; None starts an embedded one.
    """

    run_dir: Path
    resume: Path | None = None
    pages: Sequence[Path] = ()
    parallel: int = 1
    database_url: str | None = None
    sqs_endpoint: str | None = None
    kafka_bootstrap: str | None = None


Watching = Callable[[AblationFolder, int, int], AbstractContextManager[Watcher]]
"""Shows the progress, given the folder, the number of cells, and how many of them are known."""


async def ablate(wanted: Wanted, place: Place, watching: Watching) -> tuple[AblationFolder, Matrix]:
    """Measure what is not known yet, and build the matrix.

    Raises:
        ConfigurationError: the servers cannot be used.
        AblationError: several cells in a row could not be carried out.
        RunFolderError, ValueError: the folder to go on in, or a page, cannot be used.
    """
    for page in place.pages:
        markdown.check(page)  # before the work, not after it
    folder = AblationFolder.open(place.resume) if place.resume else None
    if folder and wanted.orders not in {None, folder.orders}:
        raise ValueError(
            f"{folder.path} was made with --orders {folder.orders}; leave --orders away, or start anew"
        )
    if folder and folder.basis != wanted.basis:
        words = " ".join(folder.basis.words) or "--broker sqs, without --transactions"
        raise ValueError(f"{folder.path} was made with {words}: say so again, or start anew")
    cells = wanted.cells()
    for cell in cells:  # before the work, as above
        FAULTS[cell.fault].plan(
            cell.seed, folder.orders if folder else wanted.orders or DEFAULT_ORDERS
        )
    todo = unfinished(cells, folder.results() if folder else {})
    if todo or folder is None:
        async with servers(
            database_url=place.database_url,
            sqs_endpoint=place.sqs_endpoint,
            broker=wanted.basis.broker,
            kafka_bootstrap=place.kafka_bootstrap,
        ) as where:
            versions = await _versions(where)
            if folder is None:
                folder = AblationFolder.create(
                    place.run_dir,
                    orders=wanted.orders or DEFAULT_ORDERS,
                    versions=versions,
                    basis=wanted.basis,
                )
            _check_alike(folder, versions)
            orders = folder.orders
            runner = CellRunner(
                where,
                orders=orders,
                cells=folder.cells,
                basis=wanted.basis,
                command=lambda cell: replace(
                    wanted,
                    seeds=1,
                    first_seed=cell.seed,
                    variants=(cell.variant,),
                    faults=(cell.fault,),
                ).command(orders),
            )
            known = len(cells) - len(todo)
            with watching(folder, len(cells), known) as watch, folder.appender() as log:
                await run_cells(todo, runner, log, parallel=place.parallel, watch=watch)
    matrix = build(cells, folder.results(), TABLE)
    origin = markdown.Provenance(
        wanted.command(folder.orders),
        folder.versions,
        folder.orders,
        wanted.seeds,
        folder.started_at,
    )
    for page in place.pages:
        markdown.write(page, matrix, origin)
    return folder, matrix


async def _versions(where: Servers) -> dict[str, str]:
    try:
        connection = await asyncpg.connect(asyncpg_url(where.database_url), timeout=10)
    except (OSError, asyncpg.PostgresError) as error:
        reason = str(error) or "no answer within 10 s"
        raise ConfigurationError(f"the database cannot be reached: {reason}") from error
    try:
        return versions_of(str(await connection.fetchval("SHOW server_version")))
    finally:
        await connection.close()


def _check_alike(folder: AblationFolder, versions: dict[str, str]) -> None:
    """Cells of different versions, or measured by different clocks, are no one matrix."""
    if folder.visibility_s != VISIBILITY_S:
        raise ValueError(
            f"{folder.path} was made with a visibility timeout of {folder.visibility_s:g} s, and this "
            f"onceproof measures with {VISIBILITY_S:g} s: start anew"
        )
    if dict(folder.versions) != versions:
        names = sorted({*folder.versions, *versions})
        other = [name for name in names if folder.versions.get(name) != versions.get(name)]
        raise ValueError(
            f"{folder.path} was made with other versions of {', '.join(other)}: start anew"
        )


__all__ = ["DEFAULT_ORDERS", "Place", "Wanted", "ablate"]
