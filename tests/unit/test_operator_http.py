"""The operator's HTTP port: nothing but run folders can be fetched, and readiness has reasons."""

from __future__ import annotations

import io
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp.test_utils import TestServer
from tests.unit.test_operator_world import settings
from yarl import URL

from onceproof.admin import Health
from onceproof_operator.http import application, serve

RUN = "20260101-000000-hardened-s1"


class Port:
    def __init__(self, base: URL, http: aiohttp.ClientSession) -> None:
        self._base = base
        self._http = http

    async def get(self, path: str) -> tuple[int, bytes]:
        """The path as it is, not made safe by the client."""
        async with self._http.get(URL(f"{self._base}{path}", encoded=True)) as response:
            return response.status, await response.read()


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    folder = tmp_path / "runs" / RUN
    (folder / "evidence").mkdir(parents=True)
    (folder / "run.json").write_text("{}")
    (folder / "evidence" / "charges.jsonl").write_text('{"id": 1}\n')
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "token").write_text("s3cret")
    (tmp_path / "runs" / "latest").symlink_to(RUN)
    (tmp_path / "runs" / "away").symlink_to(tmp_path / "secret")
    (tmp_path / "runs" / ".hidden").mkdir()
    (tmp_path / "runs" / "file").write_text("s3cret")
    return tmp_path / "runs"


@pytest.fixture
def health() -> Health:
    return Health()


@pytest.fixture
async def port(runs: Path, health: Health) -> AsyncIterator[Port]:
    async with TestServer(application(runs, health)) as server, aiohttp.ClientSession() as http:
        yield Port(server.make_url("").origin(), http)


async def test_runs_are_listed_by_name(port: Port) -> None:
    assert await port.get("/runs") == (200, f'["{RUN}"]'.encode())


async def test_a_run_comes_back_as_it_was(port: Port, tmp_path: Path) -> None:
    status, body = await port.get(f"/runs/{RUN}.tar.gz")
    assert status == 200
    with tarfile.open(fileobj=io.BytesIO(body)) as archive:
        archive.extractall(tmp_path / "fetched", filter="data")
    fetched = tmp_path / "fetched" / RUN
    assert (fetched / "evidence" / "charges.jsonl").read_text() == '{"id": 1}\n'
    assert (fetched / "run.json").read_text() == "{}"


async def test_a_link_in_a_run_is_not_followed(port: Port, runs: Path, tmp_path: Path) -> None:
    (runs / RUN / "link").symlink_to(tmp_path / "secret")
    _, body = await port.get(f"/runs/{RUN}.tar.gz")
    with tarfile.open(fileobj=io.BytesIO(body)) as archive:
        assert archive.getmember(f"{RUN}/link").issym()
        assert not [name for name in archive.getnames() if "token" in name]


@pytest.mark.parametrize(
    "name",
    [
        "../secret",
        "..%2fsecret",
        "%2e%2e/secret",
        "%2e%2e%2fsecret",
        "%252e%252e%252fsecret",
        "..",
        "%2e%2e",
        ".",
        "/etc",
        "%2fetc",
        f"{RUN}/evidence",
        f"{RUN}%2fevidence",
        f"{RUN}%00",
        "latest",
        "away",
        ".hidden",
        "file",
        "nothing",
        "",
    ],
)
async def test_nothing_else_can_be_fetched(port: Port, name: str) -> None:
    status, body = await port.get(f"/runs/{name}.tar.gz")
    assert status == 404
    assert b"s3cret" not in body


async def test_no_folder_yet_is_no_run(health: Health, tmp_path: Path) -> None:
    app = application(tmp_path / "missing", health)
    async with TestServer(app) as server, aiohttp.ClientSession() as http:
        port = Port(server.make_url("").origin(), http)
        assert await port.get("/runs") == (200, b"[]")
        assert (await port.get("/runs/a.tar.gz"))[0] == 404


async def test_readiness_says_why_not(port: Port, health: Health) -> None:
    assert await port.get("/readyz") == (200, b'{"status": "ready"}')
    health.not_ready("rights", "the ServiceAccount may not delete pods")
    status, body = await port.get("/readyz")
    assert status == 503
    assert b"may not delete pods" in body
    assert (await port.get("/healthz"))[0] == 200
    health.ready("rights")
    assert (await port.get("/readyz"))[0] == 200


async def test_metrics_are_served_in_prometheus_format(port: Port) -> None:
    status, body = await port.get("/metrics")
    assert status == 200
    assert b"# HELP python_info" in body


async def test_it_is_served_on_the_port_of_the_settings(
    runs: Path, health: Health, unused_tcp_port: int
) -> None:
    given = settings(runs_dir=runs, http_port=unused_tcp_port)
    url = URL(f"http://127.0.0.1:{unused_tcp_port}")
    async with aiohttp.ClientSession() as http:
        async with serve(given, health):
            assert (await Port(url, http).get("/healthz"))[0] == 200
        with pytest.raises(aiohttp.ClientConnectorError):
            await Port(url, http).get("/healthz")


def test_what_is_logged_at_start_holds_no_secret() -> None:
    printed = str(settings().printable())
    assert "s3cret" not in printed
    assert "t0psecret" not in printed
    assert "db:5432/onceproof" in printed
