"""Judging a proof from hand-written facts, those that must fail or prove nothing above all."""

from dataclasses import replace

import pytest

from onceproof_chaos.prove.facts import Facts
from onceproof_chaos.prove.invariants import Violation
from onceproof_chaos.prove.points import CONTROL, DUPLICATE, WITHOUT_INBOX, Act, Cell
from onceproof_chaos.prove.verdict import Status, judge, judge_cell
from onceproof_chaos.verdict import Result

TWICE = Violation("once", 1, ({"order_id": "m-1", "count": 2},))
CONTROL_RUN = Facts(Cell(CONTROL, Act.NONE), reached=True, written=("public.t",))
KILLED = Facts(Cell("consumer.after_charge", Act.KILL), reached=True)
SEEN = Facts(Cell(WITHOUT_INBOX, Act.NONE), reached=True, violations=(TWICE,))


def test_every_fault_in_its_place_and_nothing_broken_is_a_pass():
    result = judge([CONTROL_RUN, KILLED, SEEN])
    assert result.held
    assert result.reasons == result.warnings == ()
    assert result.broken == ()  # what breaks without the inbox is what it should be


def test_a_broken_invariant_is_a_fail_and_names_its_cell():
    result = judge([CONTROL_RUN, replace(KILLED, violations=(TWICE,)), SEEN])
    assert result.verdict is Result.FAIL
    assert [judged.cell for judged in result.broken] == [KILLED.cell]
    assert result.status("consumer.after_charge", "kill") is Status.BROKEN
    assert "consumer.after_charge x kill: broken" in str(result)


@pytest.mark.parametrize(
    ("facts", "status", "reason"),
    [
        (replace(KILLED, reached=False), Status.NOT_REACHED, "did not come to this point"),
        (replace(KILLED, error="no service"), Status.INCONCLUSIVE, "no service"),
        (replace(KILLED, drain_reason="not quiet"), Status.INCONCLUSIVE, "not quiet"),
        (replace(KILLED, ends=("consumer-0 ended",)), Status.INCONCLUSIVE, "consumer-0 ended"),
        (
            replace(KILLED, dead_letters=({"event_id": "e", "reason": "no stock"},)),
            Status.INCONCLUSIVE,
            "dead-letter queue, e.g. because: no stock",
        ),
    ],
)
def test_what_was_not_seen_is_not_held(facts, status, reason):
    judged = judge_cell(facts)
    assert judged.status is status
    assert reason in judged.reasons[0]
    result = judge([CONTROL_RUN, facts, SEEN])
    assert result.verdict is Result.INCONCLUSIVE
    assert any(reason in text for text in result.reasons)


def test_what_is_found_before_all_is_quiet_may_only_be_late():
    judged = judge_cell(replace(KILLED, drain_reason="not quiet", violations=(TWICE,)))
    assert judged.status is Status.INCONCLUSIVE
    assert "once finds 1" in judged.reasons[0]


def test_a_breach_wins_over_doubt():
    unreached = replace(KILLED, cell=Cell(DUPLICATE, Act.LATER), reached=False)
    result = judge([CONTROL_RUN, replace(KILLED, violations=(TWICE,)), unreached, SEEN])
    assert result.verdict is Result.FAIL


def test_a_control_that_breaks_is_no_fault_of_a_fault():
    result = judge([replace(CONTROL_RUN, violations=(TWICE,))])
    assert result.verdict is Result.FAIL
    assert [judged.cell.point for judged in result.broken] == [CONTROL]


def test_a_control_alone_proves_nothing():
    assert judge([CONTROL_RUN]).verdict is Result.INCONCLUSIVE


def test_invariants_that_never_break_prove_nothing():
    blind = replace(CONTROL_RUN, blind=True)
    result = judge([blind, KILLED, replace(SEEN, violations=())])
    assert result.verdict is Result.INCONCLUSIVE
    assert len(result.warnings) == 2
    assert "never seen to break" in result.reasons[0]
    assert judge([blind, KILLED]).verdict is Result.INCONCLUSIVE


def test_a_run_that_broke_off_has_not_shown_that_the_invariants_can_break():
    result = judge(
        [replace(CONTROL_RUN, blind=True), KILLED, replace(SEEN, violations=(), error="no")]
    )
    assert result.verdict is Result.INCONCLUSIVE
    assert "never seen to break" in result.reasons[0]
    assert any("is not known: no" in warning for warning in result.warnings)


def test_an_invariant_that_can_break_does_not_vouch_for_another():
    both = replace(CONTROL_RUN, held_before=("once", "typing error"))
    result = judge([both, KILLED, SEEN])
    assert result.held
    assert result.warnings == ("Never seen to break, and perhaps unable to: typing error.",)


def test_a_control_that_broke_has_shown_that_the_invariants_can():
    result = judge([replace(CONTROL_RUN, blind=True, violations=(TWICE,))])
    assert result.verdict is Result.FAIL
    assert result.reasons == ()


def test_invariants_that_see_one_kind_of_breach_prove_that_much_and_it_is_said():
    no_loss = judge([replace(CONTROL_RUN, blind=True), KILLED, SEEN])
    assert no_loss.held
    assert "cannot see a lost message" in no_loss.warnings[0]
    no_doubles = judge([CONTROL_RUN, KILLED, replace(SEEN, violations=())])
    assert no_doubles.held
    assert "cannot see one" in no_doubles.warnings[0]


def test_facts_survive_the_run_folder():
    facts = replace(
        CONTROL_RUN,
        violations=(TWICE,),
        ends=("consumer-0 ended",),
        dead_letters=({"event_id": "e", "reason": None},),
        effects=3,
        held_before=("once",),
    )
    assert Facts.from_json(facts.as_json()) == facts


def test_a_cell_that_is_not_there_is_an_error():
    with pytest.raises(KeyError, match="no cell"):
        judge([CONTROL_RUN]).status("consumer.after_charge", Act.KILL)
