"""`make bench` as a program: what it writes, and its exit code."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from typer.testing import CliRunner

# The benchmarks are scripts beside the packages, not installed.
sys.path.insert(0, str(Path(__file__).parents[2]))

import typer
from benchmarks import cli
from benchmarks.contest import Contest, Question
from benchmarks.figures import InvalidRunError, Sample
from benchmarks.sqs_requests import RequestCounter


@pytest.fixture
def run():
    application = typer.Typer()
    application.command()(cli.main_command)
    runner = CliRunner()
    return lambda *arguments: runner.invoke(application, list(arguments))


def test_a_contest_leaves_json_and_a_page(run, tmp_path):
    result = run(
        "--only", "producer-sql", "--repeats", "1", "--seconds", "1",
        "--output", str(tmp_path), "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    [data] = tmp_path.glob("*.json")
    [page] = tmp_path.glob("*.html")
    document = json.loads(data.read_text())
    assert document["valid"] is True
    assert document["postgres_settings"]["fsync"] == "on"
    [contest] = document["contests"]
    with_row, without = contest["contenders"]
    assert with_row["wal_bytes_per_order"] > without["wal_bytes_per_order"] > 0
    assert with_row["fsyncs_per_order"] > 0
    assert with_row["cpu_s_per_1000"]["postgres"] > 0
    assert contest["answers"][0]["value"] > 0
    assert "Producer's order write" in page.read_text().replace("&#39;", "'")


def test_an_invalid_run_ends_with_exit_code_1_and_is_in_the_report(run, tmp_path, monkeypatch):
    class Wrong:
        name = "wrong"

        async def prepare(self) -> None:
            return None

        async def measure(self, repeat: int) -> Sample:
            del repeat
            raise InvalidRunError("10 distinct orders gave 11 charges for 10 orders")

    @asynccontextmanager
    async def opened(_at):
        yield [Wrong()]

    contest = Contest("wrong", "Wrong", opened, [Question("q", "wrong", None)])
    monkeypatch.setattr(cli, "contests", lambda _messages: [contest])
    result = run("--output", str(tmp_path))
    assert "invalid" in result.stderr, result.stderr
    assert result.exit_code == 1
    [data] = tmp_path.glob("*.json")
    document = json.loads(data.read_text())
    assert document["valid"] is False
    assert "11 charges" in document["contests"][0]["invalid"]["wrong"]


def test_what_was_measured_before_an_interrupt_is_kept(run, tmp_path, monkeypatch):
    class Interrupted:
        name = "slow"

        async def prepare(self) -> None:
            return None

        async def measure(self, repeat: int) -> Sample:
            if interrupts:
                os.kill(os.getpid(), signal.SIGTERM)
                await asyncio.sleep(60)
            interrupts.append(repeat)
            return Sample(10, 1.0, 0.1, 0)

    @asynccontextmanager
    async def opened(_at):
        yield [Interrupted()]

    interrupts: list[int] = []
    question = Question("q", "slow", None)
    known = [Contest(name, name, opened, [question]) for name in ("first", "second", "third")]
    monkeypatch.setattr(cli, "contests", lambda _messages: known)
    result = run("--repeats", "1", "--output", str(tmp_path))
    assert result.exit_code == 1
    [data] = tmp_path.glob("*.json")
    first, second, third = json.loads(data.read_text())["contests"]
    assert first["answers"][0]["value"] == 10
    assert second["not_run"] == third["not_run"] == "interrupted"


def test_the_contests_are_listed_with_their_figures(run):
    result = run("--list", "--json")
    assert result.exit_code == 0
    listed = json.loads(result.stdout)
    assert {"relay-peers", "no-broker", "variants", "requests"} <= {each["name"] for each in listed}
    assert all(each["needs"] for each in listed)


def test_a_name_that_is_none_is_an_error_that_names_the_others(run):
    result = run("--only", "nonsense")
    assert result.exit_code == 1
    assert "relay-peers" in result.stderr


async def test_requests_through_the_counting_proxy_arrive_and_are_counted():
    answered = 0

    async def answer(request: web.Request) -> web.Response:
        nonlocal answered
        answered += 1
        return web.Response(body=await request.read())

    application = web.Application()
    application.router.add_post("/", answer)
    body = b"x" * 200_000
    async with (
        TestServer(application) as server,
        RequestCounter(str(server.make_url("/"))) as counter,
        aiohttp.ClientSession() as http,
    ):
        for operation in ("SendMessageBatch", "ReceiveMessage", "ReceiveMessage"):
            headers = {"X-Amz-Target": f"AmazonSQS.{operation}"}
            async with http.post(counter.endpoint, data=body, headers=headers) as response:
                assert await response.read() == body
        assert counter.counts() == {"SendMessageBatch": 1, "ReceiveMessage": 2}
        counter.reset()
        assert counter.counts() == {}
    assert answered == 3
