"""The matrix and its pages: counts over seeds, the worst of the cells, and what is generated of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from onceproof_chaos.ablation import display, markdown
from onceproof_chaos.ablation.ablation import Wanted
from onceproof_chaos.ablation.agreement import Agreement
from onceproof_chaos.ablation.markdown import MarkdownError, Provenance
from onceproof_chaos.ablation.matrix import Matrix, build
from onceproof_chaos.ablation.prediction import Prediction
from onceproof_chaos.ablation.results import Cell, CellResult
from onceproof_chaos.ablation.theory import TABLE
from onceproof_chaos.verdict import BreachKind

KILL = "kill-consumer.after_commit"
WANTED = Wanted(2, 1, ("naive", "hardened"), (KILL,))
ORIGIN = Provenance("onceproof ablate", {"python": "3.11"}, 10, 2, 1_700_000_000)
STRUCK = ("o-1", "o-2")


def measured(cell: Cell, attempt: int = 1, **values: Any) -> CellResult:
    breaches = {BreachKind.DOUBLE_CHARGED: STRUCK} if cell.variant == "naive" else {}
    defaults: dict[str, Any] = {"struck": STRUCK, "redeliveries": 2, "breaches": breaches}
    return CellResult(cell, attempt, **defaults | values)


def matrix(*others: CellResult, table: Any = TABLE, leave_out: Cell | None = None) -> Matrix:
    results = {c: [measured(c)] for c in WANTED.cells() if c != leave_out}
    for other in others:
        known = results.setdefault(other.cell, [])
        results[other.cell] = [*(known if other.attempt > 1 else []), other]
    return build(WANTED.cells(), results, table)


def test_counts_are_summed_over_the_seeds() -> None:
    found = matrix()
    assert found.agreement is Agreement.AGREES
    assert found.cells[Agreement.AGREES] == 4
    naive = found.entries["naive", KILL]
    assert (naive.seeds, naive.struck, naive.redeliveries) == (2, 4, 4)
    assert (naive.measured, naive.predicted) == ("4/4 double-charged", "double-charged")
    hardened = found.entries["hardened", KILL]
    assert (hardened.measured, hardened.predicted) == ("0", "none")


def test_one_seed_that_disagrees_is_enough() -> None:
    found = matrix(measured(Cell(2, "naive", KILL), breaches={}))
    assert found.agreement is Agreement.DISAGREES
    assert found.cells == {"agrees": 3, "inconclusive": 0, "disagrees": 1}
    assert found.findings[0].startswith(f"s2-naive-{KILL}: Predicted to be double-charged")


def test_a_wrong_theory_disagrees() -> None:
    wrong = dict(TABLE) | {("hardened", KILL): Prediction(frozenset({BreachKind.LOST}), True, "x.")}
    assert matrix(table=wrong).agreement is Agreement.DISAGREES
    too_kind = dict(TABLE) | {("naive", KILL): Prediction(frozenset(), True, "x.")}
    assert matrix(table=too_kind).agreement is Agreement.DISAGREES


def test_what_was_not_measured_or_is_in_doubt_is_never_agreement() -> None:
    cell = Cell(1, "hardened", KILL)
    assert matrix(leave_out=cell).agreement is Agreement.INCONCLUSIVE
    assert matrix(measured(cell, reasons=("Doubt.",))).agreement is Agreement.INCONCLUSIVE
    assert matrix(measured(cell, 2, reasons=("Doubt.",))).agreement is Agreement.INCONCLUSIVE


def test_a_repetition_clears_doubt_but_no_breach_that_must_not_be() -> None:
    cell = Cell(1, "hardened", KILL)
    doubtful = measured(cell, reasons=("Doubt.",))
    assert build([cell], {cell: [doubtful, measured(cell, 2)]}, TABLE).agreement is Agreement.AGREES
    lost = measured(cell, reasons=("Doubt.",), breaches={BreachKind.LOST: ("o-1",)})
    found = build([cell], {cell: [lost, measured(cell, 2)]}, TABLE)
    assert found.agreement is Agreement.DISAGREES
    assert "lost" in found.findings[0]


def test_a_page_shows_prediction_beside_measurement_with_command_versions_and_reasons(
    tmp_path: Path,
) -> None:
    page = tmp_path / "ablation.md"
    markdown.write(page, matrix(), ORIGIN)
    text = page.read_text()
    assert "| fault | leg | naive | hardened |" in text
    assert (
        "| kill at `consumer.after_commit` | Leg 3 | **4/4 double-charged**<br>*double-charged* "
        "| 0<br>*none* |" in text
    )
    assert "`onceproof ablate`" in text
    assert "python 3.11" in text
    assert TABLE["naive", KILL].reason in text
    assert "4 agree with the theory, 0 disagree, 0 are inconclusive" in text
    assert "does not agree" not in text
    markdown.write(page, matrix(measured(Cell(2, "naive", KILL), breaches={})), ORIGIN)
    assert "2/4 double-charged** ✗" in page.read_text()
    assert "What does not agree" in page.read_text()


def test_in_a_page_of_somebody_only_what_is_between_the_markers_is_replaced(tmp_path: Path) -> None:
    page = tmp_path / "text.md"
    page.write_text(f"# Mine\n\n{markdown.BEGIN}\nold\n{markdown.END}\n\nMy words.\n")
    for _ in range(2):
        markdown.write(page, matrix(), ORIGIN)
        text = page.read_text()
        assert text.startswith(f"# Mine\n\n{markdown.BEGIN}\n")
        assert text.endswith(f"\n{markdown.END}\n\nMy words.\n")
        assert text.count("4/4 double-charged") == 1
        assert "old" not in text


def test_a_page_without_markers_and_a_missing_folder_are_refused(tmp_path: Path) -> None:
    page = tmp_path / "text.md"
    page.write_text("# Mine\n")
    with pytest.raises(MarkdownError, match="was not generated"):
        markdown.check(page)
    with pytest.raises(MarkdownError, match="was not generated"):
        markdown.write(page, matrix(), ORIGIN)
    assert page.read_text() == "# Mine\n"
    with pytest.raises(MarkdownError, match="not a folder"):
        markdown.check(tmp_path / "none" / "page.md")
    assert markdown.check(tmp_path / "new.md") is None


def test_the_tables_on_a_terminal_say_the_same() -> None:
    console = Console(width=80, record=True)
    console.print(display.breach_table(matrix()), display.again_table(matrix()))
    text = console.export_text()
    rows = [line.split() for line in text.splitlines()]
    assert ["kill", "at", "4/4", "0"] in rows
    assert ["consumer.", "double", "none"] in rows
    assert ["after_commit", "double"] in rows
