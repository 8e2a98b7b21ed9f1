"""The audit log on its own, and the checker of it with its negative controls."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from onceproof.dlq import AuditLogError, Letter, Record, Step, open_audit_log, read_trail
from onceproof.events import Event
from onceproof.ports import Message

# The checker is beside the packages, not installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.dlq_audit import audit_problems, resumptions


def letter(number: int) -> Letter:
    event = Event(type="dev.test", data={}, key=f"o-{number}", id=f"e-{number}")
    return Letter.of(Message(event.encode(), f"m-{number}", "r", 1, 0.0))


def full_log(path: Path, count: int = 2) -> None:
    with open_audit_log(path) as log:
        log.begin("orders", {})
        for number in range(count):
            log.write(Step.SENDING, [(letter(number), {})])
            log.write(Step.SENT, [(letter(number), {"sent_as": f"s-{number}"})])
            log.write(Step.DELETED, [(letter(number), {})])
        log.end(Step.FINISHED, {"sent": count})


BEFORE = {"m-0", "m-1", "m-2"}
AFTER = {"m-2"}


def test_a_full_log_has_no_problem(tmp_path: Path) -> None:
    log = tmp_path / "log"
    full_log(log)
    assert audit_problems(log, before=BEFORE, after=AFTER) == []
    assert resumptions(log) == 0


@pytest.mark.parametrize("step", ["sending", "sent", "deleted", "started", "finished"])
def test_the_checker_notices_each_missing_kind_of_record(tmp_path: Path, step: str) -> None:
    log = tmp_path / "log"
    full_log(log)
    lines = log.read_text().splitlines()
    missing = next(line for line in lines if f'"step":"{step}"' in line)
    log.write_text("\n".join(line for line in lines if line != missing) + "\n")
    assert audit_problems(log, before=BEFORE, after=AFTER)


def test_the_checker_notices_what_left_without_a_word_and_what_is_still_there(
    tmp_path: Path,
) -> None:
    log = tmp_path / "log"
    full_log(log)
    assert audit_problems(log, before=BEFORE | {"m-3"}, after=AFTER)
    assert audit_problems(log, before=BEFORE, after=AFTER | {"m-1"})


def test_the_checker_takes_a_torn_line_only_before_a_start(tmp_path: Path) -> None:
    log = tmp_path / "log"
    full_log(log)
    lines = log.read_text().splitlines()
    log.write_text("\n".join([*lines[:3], '{"at":"20', *lines[3:]]) + "\n")
    assert audit_problems(log)


def test_a_log_goes_on_after_a_line_that_a_kill_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "log"
    full_log(path, 1)
    with open_audit_log(path) as log:
        assert not log.begin("orders", {})
        log.write(Step.SENDING, [(letter(5), {})])
    with path.open("ab") as file:
        file.write(b'{"at":"2026-01-01T00:0')
    with open_audit_log(path) as log:
        assert log.trail.torn == 1
        assert log.begin("orders", {})
        log.write(Step.SENDING, [(letter(5), {})])
        log.write(Step.SENT, [(letter(5), {})])
        log.gone(["m-5"])
        log.end(Step.FINISHED, {})
    assert audit_problems(path, before={"m-0", "m-5"}, after=set()) == []
    assert resumptions(path) == 1


@pytest.mark.parametrize("length", range(1, 30))
def test_a_kill_in_the_very_first_line(tmp_path: Path, length: int) -> None:
    path = tmp_path / "log"
    path.write_bytes(Record(Step.STARTED, "r").line()[:length])
    full_log(path)
    assert audit_problems(path) == []


def test_what_was_sent_and_not_deleted_is_known_also_from_an_earlier_redrive(
    tmp_path: Path,
) -> None:
    path = tmp_path / "log"
    with open_audit_log(path) as log:
        log.begin("orders", {})
        log.write(Step.SENT, [(letter(1), {}), (letter(2), {})])
        log.write(Step.DELETED, [(letter(2), {})])
        log.end(Step.FINISHED, {})
        log.begin("orders", {})
    trail = read_trail(path)
    assert trail.unconfirmed == {"m-1": "e-1"}
    assert trail.sent == set()


def test_one_process_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with open_audit_log(path) as log:
        log.begin("orders", {})
        with pytest.raises(AuditLogError, match="another redrive"), open_audit_log(path):
            pass
        read_trail(path)
    # A killed process leaves no lock behind.
    script = (
        "import os, sys, pathlib; from onceproof.dlq import open_audit_log\n"
        "with open_audit_log(pathlib.Path(sys.argv[1])): os.kill(os.getpid(), 9)"
    )
    died = subprocess.run([sys.executable, "-c", script, str(path)], check=False)
    assert died.returncode == -9
    with open_audit_log(path):
        pass


def test_a_file_that_is_something_else_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "snapshot.jsonl"
    path.write_text('{"snapshot":"dlq"}\n{"message_id":"m"}\n')
    with pytest.raises(AuditLogError, match="not an audit log"), open_audit_log(path):
        pass
    assert path.read_text().startswith('{"snapshot"')
    with pytest.raises(AuditLogError, match="cannot be opened"), open_audit_log(tmp_path):
        pass


def test_the_log_of_another_queue_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "log"
    full_log(path)
    with (
        open_audit_log(path) as log,
        pytest.raises(AuditLogError, match=r"'orders'.*--audit another"),
    ):
        log.begin("refunds", {})


def test_a_full_disk_is_an_error_before_the_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_descriptor: int, _data: bytes) -> int:
        raise OSError(28, "No space left on device")

    with open_audit_log(tmp_path / "log") as log:
        log.begin("orders", {})
        monkeypatch.setattr(os, "write", full)
        with pytest.raises(AuditLogError, match="No space left"):
            log.write(Step.SENDING, [(letter(1), {})])
        assert log.trail.sent == set()


def test_a_record_says_who_when_and_what(tmp_path: Path) -> None:
    path = tmp_path / "log"
    full_log(path, 1)
    first, sending, *_ = map(json.loads, path.read_text().splitlines())
    assert first["step"] == "started"
    assert first["detail"]["queue"] == "orders"
    assert "@" in first["detail"]["by"]
    assert first["at"].endswith("+00:00")
    assert sending == {
        "at": sending["at"], "redrive": first["redrive"], "step": "sending",
        "message_id": "m-0", "event_id": "e-0", "key": "o-0",
    }  # fmt: skip
