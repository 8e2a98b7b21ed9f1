"""Deletes the pod that stands at a crash point, and leaves a span of the kill in the order's trace."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Final

from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, TraceFlags

from onceproof.telemetry import CRASH_POINT, DELIVERY_ATTEMPT, EVENT_ID, ORDER_ID
from onceproof_operator.cluster import Cluster, Pod

KILL_SPAN: Final = "pod.kill"
DRILL: Final = "onceproof.drill"
POD_UID: Final = "k8s.pod.uid"
_POLL_S: Final = 0.1
_GONE_TIMEOUT_S: Final = 60.0
_CONNECT_S: Final = 0.5

_tracer: Final = trace.get_tracer("onceproof.operator")


@dataclass(frozen=True, slots=True)
class Kill:
    """Which pod was deleted for what. Times are Unix seconds; ids of the crash point's span in hex.

    Args:
        drill: name of the CrashDrill, or the campaign's fault.
        namespace: of the pod.
        pod: its name.
        uid: its uid.
        point: crash point at which it stood.
        order: order that it held there.
        attempt: delivery attempt.
        event_id: event of the order.
        trace_id: of the span `crash_point.reached`.
        span_id: of the same.
        started_at: when the deletion was asked for.
        ended_at: when its process was gone.
    """

    drill: str
    namespace: str
    pod: str
    uid: str
    point: str
    order: str
    attempt: int
    event_id: str
    trace_id: str
    span_id: str
    started_at: float
    ended_at: float


async def delete_and_wait(cluster: Cluster, pod: Pod) -> float | None:
    """Delete a pod with grace period 0, and wait until its process is dead.

    The pod's object vanishes at once, while its process stands for some two more seconds until the
    node ends it. So the object's end proves nothing, and there is no exit code to be read; but as long
    as the process lives, its admin port is open.

    Returns:
        When the process was gone, in Unix seconds; None when somebody else had deleted the pod.

    Raises:
        ForbiddenError: the operator may not delete pods.
        TimeoutError: its process still runs a minute later.
    """
    if not await cluster.delete_pod(pod):
        return None
    deadline = time.monotonic() + _GONE_TIMEOUT_S
    while True:
        looked_at = time.time()
        left = await cluster.pod(pod.name)
        if (left is None or left.uid != pod.uid) and not await _is_open(pod):
            return looked_at
        if time.monotonic() > deadline:
            raise TimeoutError(
                f"pod {pod.name} still runs {_GONE_TIMEOUT_S:.0f} s after its deletion"
            )
        await asyncio.sleep(_POLL_S)


async def _is_open(pod: Pod) -> bool:
    try:
        async with asyncio.timeout(_CONNECT_S):
            _, writer = await asyncio.open_connection(pod.ip, pod.admin_port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True


def record(kill: Kill) -> None:
    """A span of the kill, as a child of the crash point's span."""
    span = _tracer.start_span(
        KILL_SPAN,
        context=trace.set_span_in_context(NonRecordingSpan(_parent(kill))),
        kind=SpanKind.CLIENT,
        start_time=_nanoseconds(kill.started_at),
        attributes={
            DRILL: kill.drill,
            "k8s.pod.name": kill.pod,
            POD_UID: kill.uid,
            "k8s.namespace.name": kill.namespace,
            CRASH_POINT: kill.point,
            ORDER_ID: kill.order,
            EVENT_ID: kill.event_id,
            DELIVERY_ATTEMPT: kill.attempt,
        },
    )
    span.end(_nanoseconds(kill.ended_at))


def _parent(kill: Kill) -> SpanContext:
    return SpanContext(
        int(kill.trace_id or "0", 16),
        int(kill.span_id or "0", 16),
        is_remote=True,
        trace_flags=TraceFlags(TraceFlags.SAMPLED),
    )


def _nanoseconds(unix_s: float) -> int:
    return int((unix_s or time.time()) * 1e9)
