"""The examples, proved: each planted bug is found where it is, and nowhere else; the mended ones hold.

What breaks is compared with what theory says must break, cell by cell. So a proving ground that finds
too much fails as well as one that finds too little.
"""

from pathlib import Path

import pytest
from tests.programs import ANY_AWS

from onceproof_chaos.environment import Servers
from onceproof_chaos.prove.proof import judge_folder
from onceproof_chaos.verdict import Result

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

AFTER_HANDLER = "consumer.after_charge"
AFTER_EFFECT = "effects.after_record"
COMMIT = "database.before_commit public.emails"
DUPLICATE = "publish.duplicate"
EVERY_FAULT = ("kill", "stall", "drop")


@pytest.fixture(scope="session")
def onceproof_servers(postgres_server, sqs_endpoint, onceproof_run):
    """The servers of the other tests."""
    _, url = onceproof_run(postgres_server.create())
    return Servers(url, sqs_endpoint, ANY_AWS)


@pytest.fixture
def prove(onceproof_prove, pytestconfig):
    def run(target, **settings):
        example = f"examples/{target.partition('.')[0]}"
        return onceproof_prove(
            target,
            schema=f"{example}/schema.sql",
            invariants=f"@{example}/invariants.sql",
            path="examples",
            data=(pytestconfig.rootpath / example / "data.json").read_text(),
            **settings,
        )

    return run


def broken(result):
    return {(judged.cell.row, judged.cell.act.value) for judged in result.broken}


def cells(*points, acts=EVERY_FAULT):
    return {(point, act) for point in points for act in acts}


@pytest.mark.parametrize(
    ("target", "settings"),
    [
        ("email_sender.handler:handle", {}),
        ("email_sender.own_loop:consume", {"kind": "loop"}),
        ("stock_reservation.handler:handle", {}),
        ("stock_reservation.handler:handle_batch", {"kind": "batch"}),
        ("stock_reservation.effect:EFFECT", {}),
    ],
)
def test_what_is_done_right_holds_at_every_point(prove, target, settings):
    result = prove(target, **settings)
    assert result.held, result
    assert len(result.cells) > 10


@pytest.mark.parametrize(
    ("target", "settings", "expected"),
    [
        (
            "email_sender.dedup_after_effect:handle",
            {"inbox": False},
            cells(AFTER_HANDLER, AFTER_EFFECT) | {(DUPLICATE, "at once")},
        ),
        (
            "email_sender.broker_message_id:handle",
            {"inbox": False},
            cells(DUPLICATE, acts=("at once", "later")),
        ),
        (
            "email_sender.own_loop:consume_ack_first",
            {"kind": "loop"},
            cells(AFTER_EFFECT, COMMIT, acts=("kill", "drop")) | {("broker.after_ack", "kill")},
        ),
        (
            "stock_reservation.dedup_after_effect:handle",
            {"inbox": False},
            cells(AFTER_HANDLER) | {(DUPLICATE, "at once")},
        ),
        (
            "stock_reservation.commit_after_ack:handle",
            {},
            {("consumer.after_commit", "kill"), (AFTER_HANDLER, "drop")},
        ),
        (
            "stock_reservation.broker_message_id:handle",
            {"inbox": False},
            cells(DUPLICATE, acts=("at once", "later")),
        ),
    ],
)
def test_a_planted_bug_is_found_where_it_is_and_nowhere_else(prove, target, settings, expected):
    result = prove(target, **settings)
    assert result.verdict is Result.FAIL, result
    assert broken(result) == expected, result
    assert all(violation.rows for judged in result.broken for violation in judged.violations)
    assert judge_folder(Path(result.run)).as_json() == result.as_json()
