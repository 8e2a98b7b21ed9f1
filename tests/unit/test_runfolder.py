"""The run folder: what is written comes back, and what is missing or corrupt is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from onceproof.crashpoints import CONSUMER_AFTER_CHARGE
from onceproof.telemetry import CRASH_POINT, CRASH_POINT_SPAN
from onceproof_chaos import jsonl
from onceproof_chaos.checker import Result
from onceproof_chaos.evidence import DeadLetterRow, Evidence, queries_as_run
from onceproof_chaos.faultlog import FaultEvent, FaultEventKind
from onceproof_chaos.history import HistoryWriter
from onceproof_chaos.plan import Plan, build_plan
from onceproof_chaos.runfolder import LATEST, RunFolder, RunFolderError, RunInfo
from onceproof_chaos.spans import summarise

PLAN = build_plan(3, 10, kills_per_point={CONSUMER_AFTER_CHARGE: 1})
INFO = RunInfo(seed=3, variant="naive", fixes={"inbox": False}, orders=10, started_at=1.0)
EVENT = FaultEvent(FaultEventKind.REACHED, 2.0, PLAN.faults[0].id, CONSUMER_AFTER_CHARGE)


def filled(root: Path) -> RunFolder:
    run = RunFolder.create(root, "naive", 3)
    run.write_info(INFO)
    run.write_plan(PLAN)
    with HistoryWriter(run.history_path), jsonl.Appender(run.faults_path) as faults:
        faults.append(EVENT.as_json())
    run.spans_path.touch()
    Evidence(dlq=(DeadLetterRow("m", "{}", 4, "poison"),)).save(run.evidence_dir)
    (run.evidence_dir / "queries.sql").write_text(queries_as_run(0.0))
    return run


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    run = filled(tmp_path)
    again = RunFolder.open(run.path)
    assert again.info() == INFO
    assert again.plan() == PLAN
    assert again.faults() == [EVENT]
    assert again.evidence().dlq[0].reason == "poison"
    assert "FROM captures" in again.queries()
    verdict = again.judge()
    assert verdict.verdict is Result.INCONCLUSIVE
    again.write_verdict(verdict)
    assert again.verdict() == verdict


def test_latest_names_the_last_run_and_opens(tmp_path: Path) -> None:
    first, second = filled(tmp_path), filled(tmp_path)
    assert first.path != second.path
    assert RunFolder.open(tmp_path / LATEST).path == second.path.resolve()
    assert not (tmp_path / LATEST).readlink().is_absolute()


def test_a_latest_that_is_no_link_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / LATEST).mkdir()
    with pytest.raises(RunFolderError, match="not a symbolic link"):
        RunFolder.create(tmp_path, "naive", 1)


def test_what_is_no_run_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="does not exist"):
        RunFolder.open(tmp_path / "nowhere")
    with pytest.raises(RunFolderError, match="not a run folder"):
        RunFolder.open(tmp_path)


@pytest.mark.parametrize("name", ["plan.json", "history.jsonl", "evidence/captures.jsonl"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    run = filled(tmp_path)
    (run.path / name).unlink()
    with pytest.raises(RunFolderError, match=f"incomplete: {name} missing"):
        RunFolder.open(run.path)


@pytest.mark.parametrize(
    ("name", "text", "match"),
    [
        ("run.json", "{", r"run\.json cannot be read"),
        ("run.json", "[]", r"run\.json is not a JSON object"),
        ("run.json", '{"seed": "x"}', r"run\.json: seed"),
        ("plan.json", '{"seed": 1}', r"plan\.json: missing field 'orders'"),
        ("plan.json", '{"seed": 1, "orders": 0, "faults": []}', "at least one order"),
        ("faults.jsonl", '{"event": "reached"}', r"faults\.jsonl:1: "),
        ("evidence/inbox.jsonl", '{"what": 1}', r"inbox\.jsonl:1: "),
        ("spans.jsonl", "half a line", r"spans\.jsonl:1: "),
    ],
)
def test_a_corrupt_file_gives_no_verdict(tmp_path: Path, name: str, text: str, match: str) -> None:
    run = filled(tmp_path)
    (run.path / name).write_text(text)
    with pytest.raises(RunFolderError, match=match):
        run.judge()


def test_a_replaced_file_is_never_half_written(tmp_path: Path) -> None:
    run = filled(tmp_path)
    with pytest.raises(UnicodeEncodeError):
        jsonl.write_atomic(run.path / "plan.json", "\ud800")
    assert run.plan() == PLAN
    assert not list(run.path.glob(".plan*"))


def span(message: str | None, event: str, attempt: int, **more: object) -> str:
    attributes = {
        "onceproof.event.id": event,
        "onceproof.delivery.attempt": attempt,
        **({"messaging.message.id": message} if message else {}),
        **more,
    }
    crash = CRASH_POINT in attributes
    if not crash:
        attributes["messaging.operation.type"] = "process"
    return json.dumps(
        {
            "name": CRASH_POINT_SPAN if crash else "process orders",
            "trace_id": "t",
            "span_id": f"{message}{attempt}",
            "start": attempt * 1_000_000_000,
            "end": attempt * 1_000_000_000 + 5,
            "attributes": attributes,
        }
    )


def test_deliveries_are_counted_although_processes_died(tmp_path: Path) -> None:
    run = filled(tmp_path)
    done, again = {"onceproof.outcome": "processed"}, {"onceproof.outcome": "duplicate"}
    hit = {"onceproof.dedup.hit": True}
    crash = {CRASH_POINT: "consumer.before_charge"}
    lines = [
        # Delivered once, and torn by a kill of another process that wrote at the same time.
        span("m1", "e1", 1, **done),
        '{"name": "process or',
        # The first delivery died unseen, the second was a duplicate.
        span("m2", "e2", 2, **again, **hit),
        # Sent twice under two message ids.
        span("m3", "e3", 1, **done),
        span("m4", "e3", 1, **again, **hit),
        # The crash point is all that is known of the second delivery.
        span("m5", "e5", 1, **{"onceproof.outcome": "retried"}),
        span(None, "e5", 2, **crash),
        # A stall: both spans are of one delivery.
        span(None, "e6", 1, **crash),
        span("m6", "e6", 1, **done),
        # A crash point elsewhere is no delivery.
        span(None, "e7", 1, **{CRASH_POINT: "relay.after_publish"}),
    ]
    run.spans_path.write_text("\n".join(lines) + "\n")
    summary = summarise(run.spans())
    assert (summary.deliveries, summary.redeliveries) == (8, 3)
    assert (summary.dedup_hits, summary.settled) == (2, 5)
    assert summary.dedup_hit_rate == pytest.approx(2 / 5)
    assert len(summary.redelivered_at) == 3


def test_no_spans_are_no_deliveries() -> None:
    assert summarise(()).dedup_hit_rate == 0
    assert summarise(()).redeliveries == 0


def test_a_plan_without_faults_can_be_stored(tmp_path: Path) -> None:
    run = filled(tmp_path)
    run.write_plan(Plan(1, 1))
    assert run.plan() == Plan(1, 1)
