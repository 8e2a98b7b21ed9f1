"""The client's history: appended, flushed, and read back or refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from onceproof_chaos.history import Attempt, Finished, History, HistoryWriter, Outcome
from onceproof_chaos.jsonl import RunFolderError


def finished(order: str, outcome: Outcome = Outcome.OK) -> Finished:
    return Finished(order, 1999, "EUR", outcome, 201, 2, 10.0, 11.5, "reset by peer")


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    with HistoryWriter(path) as writer:
        writer.attempt(Attempt("o-1-000000", 1999, "EUR", 1, 10.0))
        writer.attempt(Attempt("o-1-000000", 1999, "EUR", 2, 11.0))
        writer.finished(finished("o-1-000000"))
        writer.attempt(Attempt("o-1-000001", 5, "USD", 1, 10.1))
        # Flushed: readable while the writer is still at work.
        history = History.load(path)
    assert history.finished == {"o-1-000000": finished("o-1-000000")}
    assert history.asked["o-1-000000"].attempt == 1
    assert history.was_asked("o-1-000001")
    assert not history.was_asked("o-1-000002")


def test_a_second_writer_appends(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    for order in ("a", "b"):
        with HistoryWriter(path) as writer:
            writer.finished(finished(order))
    assert set(History.load(path).finished) == {"a", "b"}


def test_an_order_with_two_outcomes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    with HistoryWriter(path) as writer:
        writer.finished(finished("a"))
        writer.finished(finished("a", Outcome.INFO))
    with pytest.raises(RunFolderError, match="order a has two outcomes"):
        History.load(path)
    with pytest.raises(ValueError, match="two outcomes"):
        History.of(finished("a"), finished("a"))


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ('{"order_id": "a"', r"history.jsonl:1: "),
        ("[]", "not an object but list"),
        ('{"order_id": "a", "outcome": "ok"}', "missing field 'amount'"),
        ('{"event": "attempt", "order_id": "a"}', "missing field 'amount'"),
        ('{"event": "party"}', "unknown event 'party'"),
        (
            '{"order_id":"a","amount":1,"currency":"E","outcome":"maybe","status":1,"attempts":1}',
            "missing field 'started_at'",
        ),
    ],
)
def test_a_corrupt_line_is_named(tmp_path: Path, line: str, match: str) -> None:
    path = tmp_path / "history.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(RunFolderError, match=match):
        History.load(path)


def test_a_missing_history_is_no_empty_history(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="is missing"):
        History.load(tmp_path / "history.jsonl")


def test_bytes_that_are_not_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    path.write_bytes(b'{"order_id": "\xff"}\n')
    with pytest.raises(RunFolderError, match="cannot be read"):
        History.load(path)
