"""Running cells: each once, inconclusive ones once more, and an aborted ablation goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from onceproof_chaos.ablation import ablation
from onceproof_chaos.ablation.ablation import Place, Wanted, ablate
from onceproof_chaos.ablation.basis import Basis
from onceproof_chaos.ablation.faults import FAULTS
from onceproof_chaos.ablation.prediction import VARIANTS
from onceproof_chaos.ablation.results import AblationFolder, Cell, CellResult
from onceproof_chaos.ablation.run import AblationError, run_cells, unfinished
from onceproof_chaos.backend import BackendError
from onceproof_chaos.jsonl import RunFolderError
from onceproof_chaos.settings import KAFKA
from onceproof_chaos.verdict import BreachKind

DOUBT = ("The drain did not finish.",)
CELLS = Wanted(seeds=2, variants=("naive", "hardened"), faults=("none",)).cells()


class Unwatched:
    def began(self, cell: Cell) -> None: ...
    def ended(self, result: CellResult) -> None: ...


class Bench:
    """Measures nothing: gives the outcomes that it was told, and conclusive ones else."""

    def __init__(self, **told: Any) -> None:
        self.told = {name.replace("_", "-"): list(outcomes) for name, outcomes in told.items()}
        self.did: list[tuple[Cell, int]] = []
        self.at_work = self.most = 0

    async def __call__(self, cell: Cell, attempt: int) -> CellResult:
        self.did.append((cell, attempt))
        self.at_work += 1
        self.most = max(self.most, self.at_work)
        await asyncio.sleep(0)
        self.at_work -= 1
        told = self.told.get(f"s{cell.seed}-{cell.variant}")
        outcome = told.pop(0) if told else ()
        if isinstance(outcome, BaseException):
            raise outcome
        return CellResult(cell, attempt, orders=10, reasons=outcome)


@pytest.fixture
def folder(tmp_path: Path) -> AblationFolder:
    return AblationFolder.create(tmp_path, orders=10, versions={"python": "3"}, basis=Basis())


async def go_on(folder: AblationFolder, bench: Bench, *, parallel: int = 1) -> None:
    todo = unfinished(CELLS, folder.results())
    with folder.appender() as log:
        await run_cells(todo, bench, log, parallel=parallel, watch=Unwatched())


def attempts(folder: AblationFolder) -> dict[str, list[int]]:
    return {str(cell): [r.attempt for r in known] for cell, known in folder.results().items()}


def test_the_cells_are_every_variant_under_every_fault_for_each_seed() -> None:
    cells = Wanted(seeds=3, first_seed=7).cells()
    assert len(cells) == len(set(cells)) == 3 * len(VARIANTS) * len(FAULTS)
    assert [cell.seed for cell in cells] == sorted(cell.seed for cell in cells)
    assert {cell.seed for cell in cells} == {7, 8, 9}


async def test_each_cell_is_measured_once_and_written_down(folder: AblationFolder) -> None:
    bench = Bench()
    await go_on(folder, bench, parallel=3)
    assert sorted(bench.did) == sorted((cell, 1) for cell in CELLS)
    assert bench.most == 3
    assert set(folder.results()) == set(CELLS)


async def test_an_inconclusive_cell_is_repeated_once_and_its_reason_kept(
    folder: AblationFolder,
) -> None:
    await go_on(folder, Bench(s1_naive=[DOUBT], s2_hardened=[DOUBT, DOUBT, ()]))
    assert attempts(folder)["s1-naive-none"] == [1, 2]
    assert attempts(folder)["s2-hardened-none"] == [1, 2]
    mended, doubtful = (folder.results()[cell] for cell in (CELLS[0], CELLS[3]))
    assert [result.reasons for result in mended] == [DOUBT, ()]
    assert [result.reasons for result in doubtful] == [DOUBT, DOUBT]
    assert unfinished(CELLS, folder.results()) == []


async def test_an_aborted_ablation_goes_on_with_what_is_missing(folder: AblationFolder) -> None:
    with pytest.raises(KeyError):  # a defect of ours
        await go_on(folder, Bench(s1_hardened=[KeyError("defect")]))
    assert attempts(folder) == {"s1-naive-none": [1]}
    again = Bench()
    await go_on(folder, again)
    assert again.did == [(cell, 1) for cell in CELLS[1:]]
    nothing_left = Bench()
    await go_on(folder, nothing_left)
    assert nothing_left.did == []


async def test_a_line_that_was_torn_by_a_kill_is_measured_again(folder: AblationFolder) -> None:
    await go_on(folder, Bench())
    path = folder.path / "results.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    reopened = AblationFolder.open(folder.path)
    assert (reopened.orders, reopened.versions) == (10, {"python": "3"})
    bench = Bench()
    await go_on(reopened, bench)
    assert bench.did == [(CELLS[-1], 1)]
    assert set(reopened.results()) == set(CELLS)


async def test_a_cell_that_cannot_be_carried_out_is_tried_again_also_later(
    folder: AblationFolder,
) -> None:
    broken = [BackendError("consumer-0 is not ready"), BackendError("consumer-0 is not ready")]
    await go_on(folder, Bench(s1_naive=broken))
    first, second = folder.results()[CELLS[0]]
    assert first.error
    assert "consumer-0 is not ready" in second.reasons[0]
    later = Bench()
    await go_on(folder, later)
    assert later.did == [(CELLS[0], 2)]


async def test_it_gives_up_when_no_cell_can_be_carried_out(folder: AblationFolder) -> None:
    gone = {f"s{c.seed}_{c.variant}": [OSError("gone")] * 2 for c in CELLS}
    with pytest.raises(AblationError, match=r"3 cells in a row .* gone"):
        await go_on(folder, Bench(**gone))
    assert len(folder.results()) == 3


def test_results_come_back_as_they_were(folder: AblationFolder) -> None:
    result = CellResult(
        Cell(3, "naive", "slow-handler"),
        2,
        orders=10,
        struck=("o-1", "o-2"),
        breaches={BreachKind.LOST: ("o-1",), BreachKind.MISMATCHED: ("o-1", "o-2")},
        redeliveries=4,
        deduplicated=2,
        reasons=DOUBT,
        error=True,
        seconds=1.25,
        run="cells/s3-naive-slow-handler",
    )
    with folder.appender() as log:
        log.append(result.as_json())
    assert folder.results() == {result.cell: [result]}


def watch_nothing(*_: object) -> Any:
    raise AssertionError("nothing is to be measured")


def fill(folder: AblationFolder, cells: Iterable[Cell]) -> None:
    with folder.appender() as log:
        for cell in cells:
            log.append(CellResult(cell, 1, orders=10).as_json())


async def test_a_finished_ablation_is_read_without_starting_anything(
    folder: AblationFolder, tmp_path: Path
) -> None:
    wanted = Wanted(seeds=1, variants=("hardened",), faults=("none",))
    fill(folder, wanted.cells())
    page = tmp_path / "page.md"
    place = Place(tmp_path, resume=folder.path, pages=[page])
    again, matrix = await ablate(wanted, place, watch_nothing)
    assert again == folder
    assert matrix.cells == {"agrees": 1, "inconclusive": 0, "disagrees": 0}
    command = "onceproof ablate --seeds 1 --orders 10 --variants hardened --faults none"
    assert f"`{command}`" in page.read_text()


def test_a_place_where_no_folder_can_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunFolderError, match="cannot be made"):
        AblationFolder.create(tmp_path / "file", orders=10, versions={}, basis=Basis())


def test_the_broker_is_in_the_folder_and_in_the_command(tmp_path: Path) -> None:
    basis = Basis(KAFKA, transactions=True)
    made = AblationFolder.create(tmp_path, orders=10, versions={}, basis=basis)
    assert AblationFolder.open(made.path).basis == basis
    command = Wanted(1, 1, basis.variants, basis=basis).command(10)
    assert command == "onceproof ablate --seeds 1 --orders 10 --broker kafka --transactions"
    with pytest.raises(ValueError, match="use --broker kafka"):
        Basis(transactions=True)


async def test_a_folder_that_cannot_be_gone_on_in_is_an_error(
    folder: AblationFolder, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="made with --orders 10"):
        await ablate(Wanted(orders=12), Place(tmp_path, resume=folder.path), watch_nothing)
    kafka = Basis(KAFKA, transactions=True)
    with pytest.raises(ValueError, match="made with --broker sqs"):
        await ablate(Wanted(basis=kafka), Place(tmp_path, resume=folder.path), watch_nothing)
    with pytest.raises(RunFolderError, match=r"ablation\.json is missing"):
        await ablate(Wanted(), Place(tmp_path, resume=tmp_path), watch_nothing)
    (folder.path / "ablation.json").write_text('{"orders": 10}')
    with pytest.raises(RunFolderError, match="versions"):
        AblationFolder.open(folder.path)


async def test_cells_of_another_visibility_timeout_are_not_mixed_in(
    folder: AblationFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder.path / "ablation.json"
    path.write_text(path.read_text().replace('"visibility_s": 2.0', '"visibility_s": 5.0'))
    assert AblationFolder.open(folder.path).visibility_s == 5.0

    @asynccontextmanager
    async def no_servers(**_: object) -> AsyncIterator[None]:
        yield

    async def versions(_: object) -> dict[str, str]:
        return dict(folder.versions)

    monkeypatch.setattr(ablation, "servers", no_servers)
    monkeypatch.setattr(ablation, "_versions", versions)
    wanted = Wanted(seeds=1, variants=("hardened",), faults=("none",))
    place = Place(tmp_path, resume=folder.path)
    with pytest.raises(ValueError, match=r"timeout of 5 s.* start anew"):
        await ablate(wanted, place, watch_nothing)
    fill(folder, wanted.cells())  # what is only read may be of any
    await ablate(wanted, place, watch_nothing)


async def test_too_few_patient_clients_of_one_seed_are_said_before_the_work(tmp_path: Path) -> None:
    wanted = Wanted(seeds=3, first_seed=86, faults=("none", "kill-consumer.after_commit"), orders=4)
    with pytest.raises(ValueError, match="4 orders are too few with seed 88"):
        await ablate(wanted, Place(tmp_path), watch_nothing)
