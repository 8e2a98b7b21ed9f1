"""The workload's Job: what it may do, and that its log becomes the whole history or none."""

from __future__ import annotations

import asyncio
import io
import json
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest
from tests.unit.test_operator_fakes import FakeCluster, custom_object, eventually
from tests.unit.test_operator_spec import REPLICAS, campaign
from tests.unit.test_operator_world import as_cluster, settings

from onceproof_chaos.history import Attempt, Finished, History, HistoryWriter, Outcome
from onceproof_operator import workload_job
from onceproof_operator.api import ClusterError
from onceproof_operator.campaign_spec import CampaignSpec
from onceproof_operator.workload_job import WorkloadError, WorkloadJob

SPEC = campaign(orders=2, faults={})
RUN = SPEC.settings(visibility_s=1, replicas=REPLICAS)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workload_job, "_POLL_S", 0.001)
    monkeypatch.setattr(workload_job, "_SAVE_S", 0.05)


@pytest.fixture
def cluster() -> FakeCluster:
    return FakeCluster()


@pytest.fixture
def job(cluster: FakeCluster) -> WorkloadJob:
    given = settings(image="operator:1", image_pull_secrets=("pull",), producer_url="http://p:8080")
    return WorkloadJob(as_cluster(cluster), given, SPEC)


@pytest.fixture
def history(tmp_path: Path) -> Path:
    return tmp_path / "history.jsonl"


def log(orders: int = 2) -> str:
    """What the clients themselves write."""
    stream = io.StringIO()
    history = HistoryWriter(stream)
    for number in range(orders):
        order = f"o-{number}"
        history.attempt(Attempt(order, 100, "EUR", 1, 1.0))
        # U+2028 ends a line for `splitlines`, and is allowed in JSON.
        history.finished(Finished(order, 100, "EUR", Outcome.OK, 201, 1, 1.0, 2.0, "\u2028"))
    return stream.getvalue()


def pod_of(cluster: FakeCluster, job: WorkloadJob, text: str) -> None:
    pod = cluster.add("workload", labels={"batch.kubernetes.io/job-name": job.name})
    cluster.logs[pod.pod.name] = text


async def start(cluster: FakeCluster, job: WorkloadJob, history: Path, done: list[int]) -> Any:
    task = asyncio.create_task(job.run(RUN, history, lambda: done.append(1)))
    await eventually(lambda: cluster.jobs)
    return task


async def test_the_job_may_do_nothing_but_place_orders(
    cluster: FakeCluster, job: WorkloadJob, history: Path
) -> None:
    task = await start(cluster, job, history, [])
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    [manifest] = cluster.manifests
    json.dumps(manifest)
    [owner] = manifest["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["uid"]) == ("Campaign", "c", "12345678-aaaa")
    assert owner["apiVersion"] == "onceproof.dev/v1alpha1"
    assert (owner["controller"], owner["blockOwnerDeletion"]) == (True, False)
    assert manifest["spec"]["backoffLimit"] == 0
    assert manifest["spec"]["activeDeadlineSeconds"] == 60
    template = manifest["spec"]["template"]
    pod = template["spec"]
    assert template["metadata"]["labels"]["app.kubernetes.io/component"] == "workload"
    assert template["metadata"]["labels"]["onceproof.dev/campaign"] == "c"
    assert "onceproof.dev/chaos" not in template["metadata"]["labels"]
    assert pod["restartPolicy"] == "Never"
    assert pod["automountServiceAccountToken"] is False
    assert pod["imagePullSecrets"] == [{"name": "pull"}]
    assert pod["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": 65532,
        "runAsGroup": 65532,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    [container] = pod["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["resources"]["limits"]["memory"]
    assert "env" not in container, "the clients need no database and no queue"
    words = container["args"]
    given = dict(zip(words[::2], words[1::2], strict=True))
    assert given == {
        "--orders": "2",
        "--seed": "7",
        "--run": "12345678",
        "--url": "http://p:8080",
        "--rate": "5.0",
        "--concurrency": "4",
    }


@pytest.mark.parametrize("name", ["c", "x" * 63, f"{'a' * 39}.b", f"{'a' * 62}.{'b' * 100}"])
def test_names_and_labels_are_valid_whatever_the_campaign_is_called(name: str) -> None:
    spec = CampaignSpec.of(custom_object(name, SPEC.fields, uid="12345678-aaaa"))
    job = WorkloadJob(as_cluster(FakeCluster()), settings(), spec)
    label = job._manifest(RUN)["metadata"]["labels"]["onceproof.dev/campaign"]
    for text in (job.name, label):
        assert len(text) <= 63
        assert text[0].isalnum()
        assert text[-1].isalnum()
    assert ".-" not in job.name


async def test_the_log_is_the_history(
    cluster: FakeCluster, job: WorkloadJob, history: Path
) -> None:
    done: list[int] = []
    task = await start(cluster, job, history, done)
    pod_of(cluster, job, log())
    await eventually(lambda: len(done) == 2)
    cluster.jobs[job.name] = True
    await task
    assert set(History.load(history).finished) == {"o-0", "o-1"}


NOISE = [
    '{"time": "2026-01-01", "level": "WARNING", "message": "order_id outcome"}',
    '{"order_id": "o-9"}',
    '{"order_id": "o-9", "outc',
    "Traceback (most recent call last):",
    "{",
    "[1]",
    "12",
    "",
]


async def test_what_is_no_history_stays_out(
    cluster: FakeCluster, job: WorkloadJob, history: Path
) -> None:
    lines = log().split("\n")
    noisy = [line for pair in zip_longest(NOISE, lines, fillvalue="") for line in pair]
    done: list[int] = []
    task = await start(cluster, job, history, done)
    pod_of(cluster, job, "\n".join(noisy))
    cluster.jobs[job.name] = True
    await task
    found = History.load(history)
    assert (set(found.finished), set(found.asked)) == ({"o-0", "o-1"}, {"o-0", "o-1"})


@pytest.mark.parametrize("kept", [0, 1])
async def test_half_a_log_is_no_history(
    cluster: FakeCluster, job: WorkloadJob, history: Path, kept: int
) -> None:
    task = await start(cluster, job, history, [])
    pod_of(cluster, job, log(kept))
    cluster.jobs[job.name] = True
    with pytest.raises(WorkloadError, match=f"has {kept} outcomes of 2 orders"):
        await task


async def test_a_pod_that_is_gone_is_no_empty_history(
    cluster: FakeCluster, job: WorkloadJob, history: Path
) -> None:
    task = await start(cluster, job, history, [])
    cluster.jobs[job.name] = True
    with pytest.raises(WorkloadError, match="its pod is gone"):
        await task


async def test_last_lines_may_take_a_moment(
    cluster: FakeCluster, job: WorkloadJob, history: Path
) -> None:
    task = await start(cluster, job, history, [])
    pod_of(cluster, job, log(1))
    cluster.jobs[job.name] = True
    await eventually(history.exists)
    cluster.logs = dict.fromkeys(cluster.logs, log())
    await task
    assert len(History.load(history).finished) == 2


async def test_a_job_that_failed_leaves_what_it_did(
    cluster: FakeCluster, job: WorkloadJob, history: Path
) -> None:
    task = await start(cluster, job, history, [])
    pod_of(cluster, job, log(1))
    cluster.jobs[job.name] = False
    with pytest.raises(WorkloadError, match=f"the workload failed: kubectl logs job/{job.name}"):
        await task
    assert set(History.load(history).finished) == {"o-0"}


async def test_a_job_that_failed_before_it_had_a_log(
    cluster: FakeCluster, job: WorkloadJob, history: Path
) -> None:
    cluster.fail("log", *[ClusterError("get pods/log: HTTP 400: waiting to start", 400)] * 9)
    task = await start(cluster, job, history, [])
    pod_of(cluster, job, "")
    cluster.jobs[job.name] = False
    with pytest.raises(WorkloadError, match="the workload failed"):
        await task


async def test_a_stream_that_breaks_costs_the_progress_only(
    cluster: FakeCluster, job: WorkloadJob, history: Path
) -> None:
    cluster.fail("log_lines", ClusterError("the stream broke"))
    done: list[int] = []
    task = await start(cluster, job, history, done)
    pod_of(cluster, job, log())
    await eventually(lambda: not cluster.failing["log_lines"])
    cluster.jobs[job.name] = True
    await task
    assert len(History.load(history).finished) == 2


async def test_a_cancelled_run_ends_as_cancelled(
    cluster: FakeCluster, job: WorkloadJob, history: Path
) -> None:
    task = await start(cluster, job, history, [])
    pod_of(cluster, job, log(1))
    cluster.fail("log", ClusterError("no log"))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_only_a_job_that_runs_is_ended(cluster: FakeCluster, job: WorkloadJob) -> None:
    cluster.jobs = {job.name: True}
    await job.end()
    assert cluster.deleted == []
    cluster.jobs = {job.name: None}
    await job.end()
    assert cluster.deleted == [job.name]
    await job.end()
    assert cluster.deleted == [job.name]
