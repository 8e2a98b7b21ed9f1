"""The proving ground on itself: single faults, verdicts that must fail, runs that must not pass.

Each test runs the pipeline as processes, through the same command line that the README shows.
"""

import asyncio
import json
import subprocess
from pathlib import Path

import psutil
import pytest
from tests.programs import ANY_AWS, ONCEPROOF, alive, run_program, until

from onceproof.crashpoints import CONSUMER_BEFORE_CHARGE, Action
from onceproof_chaos.campaign import run_campaign
from onceproof_chaos.conduct import Unwatched
from onceproof_chaos.environment import Servers
from onceproof_chaos.plan import Fault, Plan, order_id
from onceproof_chaos.runfolder import RunFolder
from onceproof_chaos.settings import CampaignSettings
from onceproof_chaos.verdict import Result

pytestmark = pytest.mark.slow

PASS, FAIL, UNUSABLE, INCONCLUSIVE = 0, 1, 2, 3


@pytest.fixture
def onceproof(database_url, sqs_endpoint, tmp_path):
    """Run the command line; its exit code and its JSON."""

    def run(*words):
        runs_something = words[0] in {"drill", "campaign", "demo"}
        where = (
            "--run-dir", str(tmp_path),
            "--database-url", database_url, "--sqs-endpoint", sqs_endpoint,
        ) if runs_something else ()  # fmt: skip
        done = run_program(*ONCEPROOF, *words, *where, "--json")
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode, json.loads(done.stdout) if done.stdout else done.stderr

    return run


def what(story):
    return [step["what"] for step in story]


def rows(run, table):
    path = Path(run) / "evidence" / f"{table}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_lost_ack_the_redelivery_hits_the_unique_key_and_is_acked(onceproof):
    code, result = onceproof("drill", "consumer.after_commit")
    assert (code, result["verdict"]) == (PASS, "pass")
    story = what(result["story"])
    crashed = story.index("reached consumer.after_commit at attempt 1")
    duplicate = story.index("delivery attempt 2: duplicate: the inbox has it, rolled back")
    acked = max(i for i, text in enumerate(story) if text.startswith("acked"))
    assert crashed < duplicate < acked
    assert result["deduplicated"] >= 1
    assert result["dedup_hit_rate"] > 0
    charges = [row for row in rows(result["run"], "charges") if row["order_id"] == result["order"]]
    assert [row["delivery_attempt"] for row in charges] == [1]


def test_a_failed_publish_keeps_the_row_pending_with_its_error_and_is_sent_later(onceproof):
    code, result = onceproof("drill", "relay.before_publish", "--action", "drop")
    assert (code, result["verdict"]) == (PASS, "pass")
    [row] = [row for row in rows(result["run"], "outbox") if row["key"] == result["order"]]
    assert row["attempts"] == 2
    assert "dropped at relay.before_publish" in row["last_error"]
    assert row["published_at"] > row["created_at"]


def test_a_zombie_and_its_successor_charge_once(onceproof):
    code, result = onceproof("drill", "consumer.after_charge", "--action", "stall")
    assert (code, result["verdict"]) == (PASS, "pass")
    story = what(result["story"])
    assert "goes on after its stall, as a zombie" in story
    assert result["redeliveries"] >= 1


@pytest.mark.parametrize(
    ("variant", "point", "breach"),
    [
        ("hardened-idempotency_key", "consumer.after_charge", "double_charged"),
        ("hardened-inbox", "consumer.after_commit", "mismatched"),
        ("hardened-outbox", "producer.after_commit", "lost"),
    ],
)
def test_a_fix_that_is_removed_breaks_its_leg(onceproof, variant, point, breach):
    code, result = onceproof("drill", point, "--variant", variant)
    assert (code, result["verdict"]) == (FAIL, "fail")
    kinds = {item["kind"] for item in result["breaches"] if item["order_id"] == result["order"]}
    assert breach in kinds


def test_the_naive_campaign_fails_and_a_verdict_can_be_recomputed(onceproof):
    code, result = onceproof(
        "campaign", "run", "--variant", "naive", "--orders", "30", "--kills-per-point", "1",
        "--points", "all", "--seed", "3",
    )  # fmt: skip
    assert (code, result["verdict"]) == (FAIL, "fail")
    assert result["double_charged"] > 0
    assert result["lost"] > 0
    assert (Path(result["run"]) / "report.html").stat().st_size > 1000

    assert onceproof("verify", result["run"])[1]["matches_stored"] is True
    captures = Path(result["run"]) / "evidence" / "captures.jsonl"
    captures.write_text("".join(captures.read_text().splitlines(keepends=True)[1:]))
    code, tampered = onceproof("verify", result["run"])
    assert (code, tampered["matches_stored"]) == (UNUSABLE, False)
    captures.unlink()
    code, message = onceproof("verify", result["run"])
    assert code == UNUSABLE
    assert "captures.jsonl" in message


def test_a_run_without_any_fault_is_never_a_pass(onceproof):
    code, result = onceproof("campaign", "run", "--orders", "3", "--points", "none")
    assert (code, result["verdict"]) == (INCONCLUSIVE, "inconclusive")
    assert result["reasons"]


async def test_a_fault_that_is_never_reached_makes_the_run_inconclusive(
    database_url, sqs_endpoint, tmp_path
):
    settings = CampaignSettings("hardened", orders=3, seed=5, visibility_s=1, rate_per_s=20)
    fault = Fault("late", CONSUMER_BEFORE_CHARGE, Action.KILL, orders=(order_id(5, 0),), attempt=99)
    where = Servers(
        database_url,
        sqs_endpoint,
        ANY_AWS,
    )
    async with asyncio.timeout(100):
        folder, verdict = await run_campaign(
            settings, where, tmp_path, Unwatched(), plan=Plan(5, 3, (fault,))
        )
    assert verdict.verdict is Result.INCONCLUSIVE
    assert any("late" in reason for reason in verdict.reasons)
    assert RunFolder.open(folder.path).judge() == verdict


def test_services_do_not_outlive_a_harness_that_is_killed(database_url, sqs_endpoint, tmp_path):
    harness = subprocess.Popen(
        [
            *ONCEPROOF, "campaign", "run", "--orders", "500", "--run-dir", str(tmp_path),
            "--database-url", database_url, "--sqs-endpoint", sqs_endpoint,
        ],
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    until(lambda: list(tmp_path.glob("*/history.jsonl")))
    descendants = psutil.Process(harness.pid).children(recursive=True)
    assert len(descendants) > 7  # the services, and the server that forks them
    harness.kill()
    harness.wait()
    until(lambda: not any(alive(process) for process in descendants))


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("drill", "consumer.nowhere"), "unknown crash point"),
        (("drill", "consumer.after_charge", "--variant", "hardend"), "unknown variant"),
        (("drill", "provider.after_capture"), "only drop makes sense"),
        (("campaign", "run", "--orders", "2"), "do not fit into 2 orders"),
        (("campaign", "run", "--points", "consumer.nowhere"), "unknown crash point"),
        (("verify", "no/such/run"), "does not exist"),
    ],
)
def test_bad_input_is_an_error_that_says_what_to_do(onceproof, words, reason):
    code, message = onceproof(*words)
    assert code == UNUSABLE
    assert reason in " ".join(message.split())
