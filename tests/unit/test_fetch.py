"""Fetching a run folder out of a cluster: a kubectl that answers as told, and hostile archives."""

from __future__ import annotations

import io
import json
import shlex
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from onceproof.cli.app import build
from onceproof.crashpoints import CONSUMER_AFTER_CHARGE
from onceproof_chaos.evidence import Evidence, queries_as_run
from onceproof_chaos.fetch import unpack
from onceproof_chaos.plan import build_plan
from onceproof_chaos.runfolder import LATEST, RunFolder, RunFolderError, RunInfo

RUN = "20260101-120000-hardened-s3"
NOT_FOUND = "Error from server (NotFound): the server could not find the requested resource"
INCONCLUSIVE = 3
UNUSABLE = 2

Answers = dict[str, bytes | dict[str, Any]]


@pytest.fixture
def archive(tmp_path: Path) -> bytes:
    """A run folder as the operator packs it."""
    run = RunFolder.create(tmp_path / "operator", "hardened", 3)
    run.write_info(RunInfo(seed=3, variant="hardened", fixes={}, orders=10, started_at=1.0))
    run.write_plan(build_plan(3, 10, kills_per_point={CONSUMER_AFTER_CHARGE: 1}))
    for path in (run.history_path, run.faults_path, run.spans_path):
        path.touch()
    Evidence().save(run.evidence_dir)
    (run.evidence_dir / "queries.sql").write_text(queries_as_run(0.0))
    run.write_verdict(run.judge())
    return packed({RUN: run.path})


def packed(folders: dict[str, Path]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, path in folders.items():
            archive.add(path, arcname=name)
    return buffer.getvalue()


@pytest.fixture
def kubectl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Answers], Path]:
    """Put a kubectl on PATH that knows these objects and paths; where it notes its arguments."""

    def install(answers: Answers) -> Path:
        folder = tmp_path / "bin"
        folder.mkdir()
        cases = []
        for number, (wanted, answer) in enumerate(answers.items()):
            file = folder / f"answer-{number}"
            file.write_bytes(answer if isinstance(answer, bytes) else json.dumps(answer).encode())
            cases.append(f'case "$*" in *{shlex.quote(wanted)}*) exec cat {file};; esac')
        log = folder / "log"
        script = "\n".join(
            ["#!/bin/sh", f'echo "$*" >> {log}', *cases, f"echo '{NOT_FOUND}' >&2", "exit 1"]
        )
        program = folder / "kubectl"
        program.write_text(script)
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
        return log

    return install


def cluster(archive: bytes, **status: Any) -> Answers:
    return {
        "campaigns.onceproof.dev nightly": {"status": {"phase": "Finished", "run": RUN} | status},
        "component=operator": {
            "items": [{"metadata": {"name": "shop-onceproof-operator", "namespace": "payments"}}]
        },
        f"services/shop-onceproof-operator:http/proxy/runs/{RUN}.tar.gz": archive,
    }


def fetch(tmp_path: Path, *words: str) -> tuple[int, str, str]:
    to = str(tmp_path / "runs")
    done = CliRunner().invoke(
        build(), ["campaign", "fetch", "nightly", "--to", to, *words], env={"COLUMNS": "200"}
    )
    return done.exit_code, done.stdout, " ".join(done.stderr.split())


def test_a_finished_campaign_is_fetched_and_judged(
    tmp_path: Path, archive: bytes, kubectl: Callable[[Answers], Path]
) -> None:
    log = kubectl(cluster(archive))
    code, output, _ = fetch(tmp_path, "--namespace", "payments", "--context", "prod", "--json")
    assert code == INCONCLUSIVE
    assert json.loads(output)["matches_stored"] is True
    assert RunFolder.open(tmp_path / "runs" / LATEST).path.name == RUN
    first, *_, last = log.read_text().splitlines()
    assert "--namespace payments --context prod" in first
    assert "get --raw /api/v1/namespaces/payments/services/" in last
    assert [path.name for path in (tmp_path / "runs").glob(".*")] == []


def test_a_folder_that_is_here_already_stays_as_it_is(
    tmp_path: Path, archive: bytes, kubectl: Callable[[Answers], Path]
) -> None:
    log = kubectl(cluster(archive))
    fetch(tmp_path)
    mine = tmp_path / "runs" / RUN / "notes.txt"
    mine.write_text("mine")
    asked = len(log.read_text().splitlines())
    code, output, _ = fetch(tmp_path)
    assert code == INCONCLUSIVE
    assert "Charges against promises" in output
    assert mine.exists()
    assert len(log.read_text().splitlines()) == asked + 1


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"phase": "Loading"}, "has not finished, it is Loading; wait for it"),
        (
            {"phase": "Refused", "message": "another one runs"},
            "refused, so there is no run: another",
        ),
        ({"run": ""}, "ended without a run folder"),
        ({"run": "../../etc"}, "ended without a run folder"),
        ({"run": "20260101-gone"}, "does not have the run folder 20260101-gone any more"),
    ],
)
def test_what_cannot_be_fetched_says_why(
    tmp_path: Path, archive: bytes, kubectl: Callable[[Answers], Path], change: Any, match: str
) -> None:
    kubectl(cluster(archive, **change))
    code, _, problem = fetch(tmp_path)
    assert code == UNUSABLE
    assert match in problem


def test_a_campaign_that_does_not_exist(tmp_path: Path, kubectl: Callable[[Answers], Path]) -> None:
    kubectl({})
    code, _, problem = fetch(tmp_path)
    assert code == UNUSABLE
    assert "there is no campaign 'nightly'" in problem


def test_an_operator_that_is_not_there_keeps_the_command(
    tmp_path: Path, archive: bytes, kubectl: Callable[[Answers], Path]
) -> None:
    kubectl(cluster(archive) | {"component=operator": {"items": []}})
    code, _, problem = fetch(tmp_path)
    assert code == UNUSABLE
    assert "kubectl get services --selector" in problem
    assert "one service of the operator is needed, found: none" in problem


def test_without_kubectl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    code, _, problem = fetch(tmp_path)
    assert code == UNUSABLE
    assert "kubectl is not installed" in problem


@pytest.mark.parametrize("name", ["../outside", "/outside"])
def test_an_archive_that_would_write_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("x")
    root = tmp_path / "a" / "runs"
    with pytest.raises(RunFolderError, match=r"no usable archive|no folder"):
        unpack(packed({name: tmp_path / "file"}), RUN, root)
    assert not (tmp_path / "a" / "outside").exists()
    assert list(root.iterdir()) == []


@pytest.mark.parametrize("archive", [b"", b"no archive", packed({})], ids=["none", "text", "empty"])
def test_what_is_no_archive_is_refused(tmp_path: Path, archive: bytes) -> None:
    with pytest.raises(RunFolderError, match=r"no usable archive|no folder"):
        unpack(archive, RUN, tmp_path)
    assert list(tmp_path.iterdir()) == []
