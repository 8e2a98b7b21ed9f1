"""`onceproof campaign workload` as a Job runs it: what comes on standard output is a history."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tests.programs import ONCEPROOF

from onceproof_chaos.history import History, Outcome

PASS, UNUSABLE = 0, 2


class Producer(ThreadingHTTPServer):
    """Accepts orders; hangs when told so."""

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.orders: list[str] = []
        self.hangs = False
        self.asked = threading.Event()
        self.released = threading.Event()


class _Handler(BaseHTTPRequestHandler):
    server: Producer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.orders.append(body["order_id"])
        self.server.asked.set()
        if self.server.hangs:
            self.server.released.wait(30)
        self.send_response(201)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def producer() -> Iterator[Producer]:
    with Producer() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server
        server.released.set()
        server.shutdown()
        thread.join()


def start(producer: Producer, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            *ONCEPROOF, "campaign", "workload",
            "--url", f"http://127.0.0.1:{producer.server_port}", *words,
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip


def history(text: str, folder: Path) -> History:
    path = folder / "history.jsonl"
    path.write_text(text)
    return History.load(path)


def test_standard_output_is_the_history_and_nothing_else(
    producer: Producer, tmp_path: Path
) -> None:
    job = start(producer, "--orders", "5", "--seed", "7", "--run", "a1", "--rate", "100")
    output, problems = job.communicate(timeout=60)
    assert job.returncode == PASS
    assert problems == ""
    told = history(output, tmp_path)
    assert sorted(told.finished) == [f"o-7-a1-00000{i}" for i in range(5)]
    assert {entry.outcome for entry in told.finished.values()} == {Outcome.OK}
    assert sorted(producer.orders) == sorted(told.finished)


def test_a_job_that_is_stopped_leaves_what_it_knows(producer: Producer, tmp_path: Path) -> None:
    producer.hangs = True
    job = start(producer, "--orders", "50", "--rate", "100", "--concurrency", "4")
    assert producer.asked.wait(60)
    job.send_signal(signal.SIGTERM)
    output, problems = job.communicate(timeout=60)
    assert job.returncode == 128 + signal.SIGTERM
    assert problems == ""
    told = history(output, tmp_path)
    assert told.finished == {}
    assert producer.orders[0] in told.asked


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--run", "a/b"), "is no order id"),
        (("--run", "x" * 60), "at most 64 letters"),
        (("--url", "producer:8080"), "is no URL of a producer"),
        (("--orders", "0"), "--orders"),
    ],
)
def test_bad_input_is_said_and_nothing_is_sent(
    producer: Producer, words: tuple[str, ...], reason: str
) -> None:
    job = start(producer, *words)
    output, problems = job.communicate(timeout=60)
    assert (job.returncode, output) == (UNUSABLE, "")
    assert reason in " ".join(problems.split())
    assert producer.orders == []
