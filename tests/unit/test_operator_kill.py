"""The deletion of exactly one pod, and the span that tells of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from tests.unit.test_operator_fakes import FakeCluster, FakePod
from tests.unit.test_operator_world import as_cluster

from onceproof.telemetry import CRASH_POINT, ORDER_ID
from onceproof_operator import kill as module
from onceproof_operator.api import ForbiddenError
from onceproof_operator.kill import DRILL, KILL_SPAN, POD_UID, Kill, delete_and_wait, record

KILL = Kill(
    drill="d",
    namespace="test",
    pod="consumer-1",
    uid="uid-1",
    point="consumer.after_commit",
    order="o-1",
    attempt=2,
    event_id="e-1",
    trace_id="ab" * 16,
    span_id="cd" * 8,
    started_at=1000.25,
    ended_at=1002.5,
)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> FakeCluster:
    monkeypatch.setattr(module, "_POLL_S", 0.001)
    monkeypatch.setattr(module, "_GONE_TIMEOUT_S", 0.05)
    return FakeCluster()


@contextlib.asynccontextmanager
async def process(pod: FakePod, cluster: FakeCluster) -> AsyncIterator[None]:
    """A process that answers at the pod's admin port."""
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    cluster.change(pod, ip="127.0.0.1", admin_port=port)
    async with server:
        yield


async def test_a_pod_is_gone_when_its_port_is_closed(cluster: FakeCluster) -> None:
    pod = cluster.add()
    async with process(pod, cluster):
        with pytest.raises(TimeoutError, match=f"pod {pod.pod.name} still runs"):
            await delete_and_wait(as_cluster(cluster), pod.pod)
    assert cluster.deleted == [pod.pod.name]
    again = cluster.add(ip="127.0.0.1", admin_port=pod.pod.admin_port)
    gone_at = await delete_and_wait(as_cluster(cluster), again.pod)
    assert gone_at is not None


async def test_a_pod_without_an_address_is_not_this_one(cluster: FakeCluster) -> None:
    pod = cluster.add()
    async with process(pod, cluster):
        assert await module._is_open(pod.pod)
        cluster.change(pod, ip="")
        assert not await module._is_open(pod.pod)


async def test_who_took_the_name_is_another(cluster: FakeCluster) -> None:
    pod = cluster.add(ip="")
    cluster.add(name=pod.pod.name)
    assert await delete_and_wait(as_cluster(cluster), pod.pod) is not None
    assert [left.pod.name for left in cluster.running.values()] == [pod.pod.name]


async def test_a_pod_that_was_gone_is_nobodys(cluster: FakeCluster) -> None:
    pod = cluster.add()
    cluster.gone_already = True
    assert await delete_and_wait(as_cluster(cluster), pod.pod) is None


async def test_a_missing_right_is_told(cluster: FakeCluster) -> None:
    pod = cluster.add()
    cluster.fail("delete_pod", ForbiddenError("may not delete pods"))
    with pytest.raises(ForbiddenError, match="delete pods"):
        await delete_and_wait(as_cluster(cluster), pod.pod)


def test_the_span_of_a_kill_is_in_the_orders_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(module, "_tracer", provider.get_tracer("test"))
    record(KILL)
    provider.shutdown()
    [span] = exporter.get_finished_spans()
    assert span.name == KILL_SPAN
    assert span.context is not None
    assert span.parent is not None
    assert f"{span.context.trace_id:032x}" == KILL.trace_id
    assert f"{span.parent.span_id:016x}" == KILL.span_id
    assert span.start_time == 1_000_250_000_000
    assert span.end_time == 1_002_500_000_000
    attributes = dict(span.attributes or {})
    assert (attributes[DRILL], attributes[POD_UID]) == ("d", "uid-1")
    assert (attributes[CRASH_POINT], attributes[ORDER_ID]) == ("consumer.after_commit", "o-1")
