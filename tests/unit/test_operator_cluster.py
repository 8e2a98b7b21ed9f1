"""What the operator asks of the API server, and what it makes of its refusals and of its absence.

The client is the real one; the API server is a small one of our own.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from http import HTTPStatus
from typing import Any

import pytest
import tenacity
from aiohttp import web
from aiohttp.test_utils import TestServer
from kubernetes_asyncio import client

from onceproof_operator import api
from onceproof_operator.api import ClusterError, ForbiddenError, ask
from onceproof_operator.cluster import Cluster, Pod

PODS = "/api/v1/namespaces/test/pods"
DRILLS = "/apis/onceproof.dev/v1alpha1/namespaces/test/crashdrills"
JOBS = "/apis/batch/v1/namespaces/test/jobs"
VICTIM = Pod(name="a", uid="uid-1", ip="10.0.0.1")


class ApiServer:
    """Answers in turn; the last answer stays."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, dict[str, str], Any, str]] = []
        self.answers: list[tuple[int, Any]] = []

    def answer(self, *answers: tuple[int, Any]) -> None:
        self.answers = list(answers)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        text = await request.text()
        body = json.loads(text) if text else None
        kind = request.headers.get("Content-Type", "")
        self.asked.append((request.method, request.path, dict(request.query), body, kind))
        status, answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if status == 0:
            assert request.transport is not None
            request.transport.abort()
        if isinstance(answer, str):
            return web.Response(status=status or 200, text=answer)
        return web.json_response(answer, status=status or 200)


def refusal(status: int, message: str) -> tuple[int, dict[str, Any]]:
    return status, {"kind": "Status", "status": "Failure", "message": message, "code": status}


def pod_json(name: str = "a", **status: Any) -> dict[str, Any]:
    return {
        "metadata": {
            "name": name,
            "uid": f"uid-{name}",
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {"app.kubernetes.io/component": "consumer", "onceproof.dev/chaos": "enabled"},
        },
        "spec": {
            "containers": [
                {"name": "c", "ports": [{"name": "admin", "containerPort": 9100}]},
            ]
        },
        "status": {"phase": "Running", "podIP": "10.0.0.1"} | status,
    }


@pytest.fixture
def server() -> ApiServer:
    return ApiServer()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "_WAIT", tenacity.wait_none())


@pytest.fixture
async def cluster(server: ApiServer) -> AsyncIterator[Cluster]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.handle)
    async with TestServer(app) as served:
        configuration = client.Configuration(host=str(served.make_url("")).rstrip("/"))
        async with client.ApiClient(configuration) as connection:
            yield Cluster(connection, "test")


async def test_a_pod_is_deleted_by_its_uid_and_at_once(cluster: Cluster, server: ApiServer) -> None:
    server.answer((200, pod_json()))
    assert await cluster.delete_pod(VICTIM) is True
    [(method, path, _, body, _)] = server.asked
    assert (method, path) == ("DELETE", f"{PODS}/a")
    assert body["gracePeriodSeconds"] == 0
    assert body["preconditions"] == {"uid": "uid-1"}


@pytest.mark.parametrize("status", [HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT])
async def test_a_pod_that_is_gone_or_replaced_was_not_deleted(
    cluster: Cluster, server: ApiServer, status: int
) -> None:
    server.answer(refusal(status, "the UID in the precondition does not match"))
    assert await cluster.delete_pod(VICTIM) is False
    assert len(server.asked) == 1


async def test_who_deleted_it_cannot_be_proved_when_the_answer_got_lost(
    cluster: Cluster, server: ApiServer
) -> None:
    server.answer((0, {}), refusal(404, "not found"))
    assert await cluster.delete_pod(VICTIM) is False
    assert [body["preconditions"] for _, _, _, body, _ in server.asked] == [{"uid": "uid-1"}] * 2


Call = Callable[[Cluster], Awaitable[Any]]


@pytest.mark.parametrize(
    ("call", "right"),
    [
        (lambda c: c.pods("a=b"), "list pods"),
        (lambda c: c.pod("a"), "get pods"),
        (lambda c: c.delete_pod(VICTIM), "delete pods"),
        (lambda c: c.objects("campaigns"), "list campaigns"),
        (lambda c: c.write_status("crashdrills", "d", {}), "patch crashdrills/status"),
        (lambda c: c.create_job({}), "create jobs"),
        (lambda c: c.job_finished("j"), "get jobs"),
        (lambda c: c.delete_job("j"), "delete jobs"),
        (lambda c: c.log("a"), "get pods/log"),
        (lambda c: anext(c.log_lines("a")), "get pods/log"),
    ],
)
async def test_a_missing_right_is_named(
    cluster: Cluster, server: ApiServer, call: Call, right: str
) -> None:
    server.answer(refusal(403, "pods is forbidden"))
    with pytest.raises(ForbiddenError, match=f"may not {right}; grant it by a Role") as caught:
        await call(cluster)
    assert caught.value.status == 403
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    "passing",
    [(429, {}), (500, {}), (503, {}), (504, {}), (0, {})],
    ids=lambda answer: str(answer[0]),
)
async def test_what_passes_is_waited_for(
    cluster: Cluster, server: ApiServer, passing: tuple[int, Any]
) -> None:
    server.answer(passing, passing, (200, {"items": [pod_json()]}))
    [found] = await cluster.pods("a=b")
    assert found.name == "a"
    assert [query["labelSelector"] for _, _, query, _, _ in server.asked] == ["a=b"] * 3


async def test_a_status_survives_a_conflict(cluster: Cluster, server: ApiServer) -> None:
    server.answer(refusal(409, "the object has been modified"), (503, {}), (200, {}))
    await cluster.write_status("crashdrills", "d", {"step": "Armed", "failedStep": None})
    assert len(server.asked) == 3
    method, path, _, body, kind = server.asked[-1]
    assert (method, path) == ("PATCH", f"{DRILLS}/d/status")
    assert kind == "application/merge-patch+json"
    assert body == {"status": {"step": "Armed", "failedStep": None}}


async def test_what_does_not_pass_is_told_in_the_servers_words(
    cluster: Cluster, server: ApiServer
) -> None:
    server.answer(refusal(400, "unable to parse requirement"))
    with pytest.raises(ClusterError, match="list pods: HTTP 400: unable to parse") as caught:
        await cluster.pods("a!!")
    assert caught.value.status == 400
    server.answer((422, "no JSON"))
    with pytest.raises(ClusterError, match="HTTP 422: Unprocessable Entity"):
        await cluster.pods("a=b")


async def test_patience_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    tries = []

    async def call(**_: object) -> None:
        tries.append(1)
        raise ConnectionRefusedError("connect call failed")

    with pytest.raises(ClusterError, match="list pods: the API server: connect call failed"):
        await ask("list pods", call, patience_s=0.02)
    assert len(tries) > 1
    monkeypatch.setattr(api, "_WAIT", tenacity.wait_fixed(60))
    waiting = asyncio.create_task(ask("list pods", call))
    await asyncio.sleep(0.01)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_a_deadline_ends_the_patience() -> None:
    async def call(**_: object) -> None:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02):
            await ask("list pods", call)


async def test_each_request_has_a_time_out() -> None:
    given: dict[str, object] = {}

    async def call(**options: object) -> None:
        given.update(options)

    await ask("list pods", call)
    assert given == {"_request_timeout": api.REQUEST_S}


async def test_what_is_gone_is_no_error(cluster: Cluster, server: ApiServer) -> None:
    server.answer(refusal(404, "not found"))
    assert await cluster.pod("a") is None
    await cluster.write_status("crashdrills", "d", {})
    await cluster.delete_job("j")
    assert await cluster.job_finished("j") is False
    server.answer(refusal(409, "already exists"))
    await cluster.create_job({"metadata": {"name": "j"}})


@pytest.mark.parametrize(
    ("conditions", "finished"),
    [
        ([], None),
        ([{"type": "Complete", "status": "True"}], True),
        ([{"type": "Failed", "status": "True"}], False),
        ([{"type": "Complete", "status": "False"}], None),
        ([{"type": "SuccessCriteriaMet", "status": "True"}], None),
    ],
)
async def test_a_job_is_finished_when_it_says_so(
    cluster: Cluster, server: ApiServer, conditions: list[Any], finished: bool | None
) -> None:
    server.answer((200, {"status": {"conditions": conditions}}))
    assert await cluster.job_finished("j") is finished


async def test_an_error_is_no_log(cluster: Cluster, server: ApiServer) -> None:
    server.answer(refusal(400, "container is waiting to start"))
    with pytest.raises(ClusterError, match="HTTP 400: container is waiting"):
        await cluster.log("a")
    with pytest.raises(ClusterError, match="HTTP 400: container is waiting"):
        await anext(cluster.log_lines("a"))


async def test_a_log_is_text_also_when_it_is_json(cluster: Cluster, server: ApiServer) -> None:
    server.answer((200, '{"order_id":"o-1"}\n'))
    assert await cluster.log("a") == '{"order_id":"o-1"}\n'
    assert [line async for line in cluster.log_lines("a")] == ['{"order_id":"o-1"}']
    assert [query for _, _, query, _, _ in server.asked] == [{}, {"follow": "True"}]


async def test_objects_come_oldest_first(cluster: Cluster, server: ApiServer) -> None:
    items = [
        {"metadata": {"name": name, "creationTimestamp": f"2026-01-01T00:00:0{second}Z"}}
        for name, second in (("b", 2), ("a", 1))
    ]
    server.answer((200, {"items": items}))
    assert [item["metadata"]["name"] for item in await cluster.objects("crashdrills")] == ["a", "b"]


async def test_the_rights_that_are_missing(cluster: Cluster, server: ApiServer) -> None:
    server.answer((201, {"status": {"allowed": False}, "spec": {}}))
    missing = await cluster.missing_rights()
    assert {"get pods", "delete pods", "get pods/log", "patch crashdrills/status"} <= set(missing)
    asked = [body["spec"]["resourceAttributes"] for _, _, _, body, _ in server.asked]
    assert {attributes["namespace"] for attributes in asked} == {"test"}
    server.answer((201, {"status": {"allowed": True}, "spec": {}}))
    assert await cluster.missing_rights() == []


async def found(cluster: Cluster, server: ApiServer, **status: Any) -> Pod:
    server.answer((200, pod_json(**status)))
    pod = await cluster.pod("a")
    assert pod is not None
    return pod


async def test_what_matters_of_a_pod(cluster: Cluster, server: ApiServer) -> None:
    pod = await found(
        cluster,
        server,
        conditions=[{"type": "Ready", "status": "True"}],
        containerStatuses=[
            {
                "name": "c",
                "image": "i",
                "imageID": "i",
                "ready": True,
                "restartCount": 2,
                "state": {"running": {}},
                "lastState": {"terminated": {"exitCode": 137}},
            }
        ],
    )
    assert (pod.uid, pod.ready, pod.leaving, pod.restarts, pod.exit_code) == (
        "uid-a",
        True,
        False,
        2,
        137,
    )
    assert (pod.admin_url, pod.component, pod.chaos_enabled) == (
        "http://10.0.0.1:9100",
        "consumer",
        True,
    )


async def test_a_container_beside_the_one_with_the_admin_port_may_come_and_go(
    cluster: Cluster, server: ApiServer
) -> None:
    def status(name: str, restarts: int) -> dict[str, Any]:
        return {
            "name": name,
            "image": "i",
            "imageID": "i",
            "ready": True,
            "restartCount": restarts,
            "state": {"running": {}},
        }

    # In the order of their names, as kubelet tells them.
    pod = await found(cluster, server, containerStatuses=[status("beside", 3), status("c", 0)])
    assert (pod.restarts, pod.exit_code) == (0, None)


async def test_a_pod_that_was_just_made(cluster: Cluster, server: ApiServer) -> None:
    pod = await found(cluster, server, phase="Pending", podIP=None)
    assert (pod.ip, pod.ready, pod.restarts, pod.exit_code) == ("", False, 0, None)


def test_an_address_of_version_6_is_put_in_brackets() -> None:
    assert Pod(name="a", uid="u", ip="fd00::1").admin_url == "http://[fd00::1]:9000"
    assert not Pod(name="a", uid="u").chaos_enabled
