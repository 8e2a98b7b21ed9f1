"""What a person sees of a proof."""

import io
from dataclasses import replace

from rich.console import Console

from onceproof_chaos.cli.prove_display import findings, result_tables
from onceproof_chaos.prove.facts import Facts
from onceproof_chaos.prove.invariants import Violation
from onceproof_chaos.prove.points import CONTROL, DUPLICATE, WITHOUT_INBOX, Act, Cell, Kind, matrix
from onceproof_chaos.prove.verdict import ProveResult, judge

TWICE = Violation("once", 1, ({"order_id": "m-[1]", "count": 2},))


def shown(result: ProveResult) -> str:
    output = io.StringIO()
    console = Console(file=output, width=80)
    console.print(*result_tables(result))
    for line in findings(result):
        console.print(line, highlight=False, soft_wrap=True)
    return output.getvalue()


def proof(**broken: Violation) -> ProveResult:
    cells = matrix(Kind.HANDLER, effects=False, tables=())
    runs = [Facts(Cell(CONTROL, Act.NONE), reached=True)]
    for cell in cells:
        facts = Facts(cell, reached=True)
        if cell.slug in broken or cell.point == WITHOUT_INBOX:
            facts = replace(facts, violations=(broken.get(cell.slug, TWICE),))
        runs.append(facts)
    return judge(runs, "runs/x")


def test_what_holds_is_a_table_of_it_and_nothing_more():
    text = shown(proof())
    assert text.count("held") == 12  # nine faults, both duplicates, the control
    assert "broken" not in text
    assert "handler done, not committed" in text
    assert "pass  run folder runs/x" in text


def test_what_breaks_is_shown_with_its_rows_and_where_to_look():
    text = shown(proof(**{"consumer.after_charge-kill": TWICE}))
    assert "broken (1)" in text
    assert "broken at consumer.after_charge x kill: handler done, not committed" in text
    assert '{"order_id": "m-[1]", "count": 2}' in text
    assert "Look for an effect outside of the handler's session" in text
    assert "fail  run folder" in text


def test_a_control_that_broke_is_all_there_is():
    text = shown(judge([Facts(Cell(CONTROL, Act.NONE), reached=True, violations=(TWICE,))], "r"))
    assert "Faults" not in text
    assert "broken at control: no fault" in text
    assert DUPLICATE not in text
