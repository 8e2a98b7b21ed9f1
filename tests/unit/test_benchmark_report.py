"""What is read from other programs and bytes, and the page that is made of the results."""

from __future__ import annotations

import re
import sys
from collections import Counter
from pathlib import Path

import pytest

# The benchmarks are scripts beside the packages, not installed.
sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.bench import Outcome
from benchmarks.contest import Contest, Question
from benchmarks.figures import InvalidRunError, Resources, Sample
from benchmarks.fsync import parse
from benchmarks.outbox_table import EVENT_ID, event_template
from benchmarks.page import bars, gauge, render
from benchmarks.peers import work
from benchmarks.peers.debezium_server import causes
from benchmarks.queue_content import judge_events
from benchmarks.report import Results
from benchmarks.sqs_requests import Operations

from onceproof.events import Event

JSON_REQUEST = (
    b"POST / HTTP/1.1\r\nHost: q\r\nX-Amz-Target: AmazonSQS.SendMessageBatch\r\n\r\n"
    b'{"QueueUrl": "http://q/1", "Entries": []}'
)
QUERY_REQUEST = (
    b"POST / HTTP/1.1\r\nHost: q\r\n\r\nQueueUrl=x&Action=DeleteMessage&Version=2012-11-05"
)


@pytest.mark.parametrize("size", [1, 7, 50, 10_000])
def test_requests_are_counted_in_whatever_pieces_they_come(size):
    counts: Counter[str] = Counter()
    operations = Operations(counts)
    stream = JSON_REQUEST * 3 + QUERY_REQUEST * 2
    for start in range(0, len(stream), size):
        operations.see(stream[start : start + size])
    assert counts == {"SendMessageBatch": 3, "DeleteMessage": 2}


def test_bytes_that_name_no_operation_count_nothing():
    counts: Counter[str] = Counter()
    Operations(counts).see(b"POST / HTTP/1.1\r\nHost: q\r\n\r\n" + b"x" * 100_000)
    assert not counts


def test_pg_test_fsync_is_read_up_to_what_commits_do():
    text = """
5 seconds per test
Compare file sync methods using one 8kB write:
(in "wal_sync_method" preference order, except fdatasync is Linux's default)
        open_datasync                      1990.861 ops/sec     502 usecs/op
        fdatasync                         11764.000 ops/sec      85 usecs/op
        fsync_writethrough                              n/a
Compare file sync methods using two 8kB writes:
        fdatasync                           100.000 ops/sec   10000 usecs/op
"""
    assert parse(text) == {"open_datasync": 502, "fdatasync": 85}


def test_an_event_that_was_sent_twice_or_never_spoils_a_run():
    judge_events(Counter({"a": 1, "b": 1}), 2)
    for seen in ({"a": 2, "b": 1}, {"a": 1}, {"a": 2}, {"a": 1, "b": 1, "c": 1}):
        with pytest.raises(InvalidRunError):
            judge_events(Counter(seen), 2)


def test_the_peers_relay_the_events_that_the_consumer_reads():
    body = event_template().replace(EVENT_ID, "01930000-0000-7000-8000-000000000007")
    assert Event.decode(body.encode()).id == "01930000-0000-7000-8000-000000000007"


def test_the_peers_orders_have_200_bytes():
    import json  # noqa: PLC0415

    _, order = work.order_of(7)
    assert len(json.dumps(order, separators=(",", ":"))) == 200
    assert sum(work.twice(number) for number in range(1000)) == 50


def outcomes() -> list[Outcome]:
    question = Question("ours / <theirs>", "onceproof", "theirs", 0.5, figure=1)
    lonely = Question("ours / absent", "onceproof", "absent", 1.5, figure=5)
    used = Resources({"client": 1.0, "postgres": 2.0}, 5000, 9, {"client": 55.0})
    ran = Outcome(
        Contest("one", "A contest", lambda _at: None, [question, lonely]),  # type: ignore[arg-type,return-value]
        {
            "onceproof": [Sample(100, 1.0, 1, 10, used), Sample(120, 1.0, 1, 10, used)],
            "theirs": [Sample(400, 1.0, 1, 40), Sample(440, 1.0, 1, 40)],
        },
        {"absent": "needs a <toolchain>"},
    )
    refused = Outcome(
        Contest("two", "Another", lambda _at: None, [question]),  # type: ignore[arg-type,return-value]
        why_not="needs docker",
    )
    return [ran, refused]


def document():
    parameters = {"repeats": 2, "seconds": 1, "clients": 8}
    return Results(
        outcomes(), parameters, "18.4", {"fsync": "on"}, "pgbench 18", None, None
    ).as_json()


def test_the_page_needs_nothing_from_elsewhere():
    page = render(document())
    assert "<script" not in page
    assert not re.search(r"(?:src|href)\s*=|@import|url\(", page)
    assert "prefers-color-scheme: dark" in page
    assert "width=device-width" in page


def test_the_page_says_what_was_missed_and_what_was_not_run():
    page = render(document())
    assert "1 missed" in page
    assert "2 not run" in page
    assert "not run because: absent: needs a &lt;toolchain&gt;" in page
    assert "Not run because: needs docker" in page
    assert "ours / &lt;theirs&gt;" in page
    assert "<toolchain>" not in page


def test_an_invalid_run_is_the_first_thing_on_the_page():
    made = document() | {"valid": False}
    assert "lost an order or charged one twice" in render(made)


def test_bars_are_on_one_scale_and_dots_are_the_runs():
    [first, second] = bars(document()["contests"][0]["contenders"])
    assert first.ours
    assert not second.ours
    assert first.end < second.end
    assert second.high == max(second.dots)
    assert first.low == min(first.dots)


def test_a_gauge_has_its_goal_at_two_thirds():
    [found, not_run] = [gauge(each) for each in document()["contests"][0]["answers"]]
    assert found.mark == pytest.approx(640 / 1.5, abs=0.1)
    assert found.end < (found.mark or 0)
    assert found.verdict == "missed"
    assert not_run.verdict == "not run"


def test_a_java_log_is_cut_down_to_what_failed():
    log = "INFO started\nERROR no format\n\tat a.b.C\nCaused by: Unknown format\n\tat d.e.F\n"
    assert causes(log) == "ERROR no format | Caused by: Unknown format"
    assert causes("it said\nnothing") == "it said nothing"
