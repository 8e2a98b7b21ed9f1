"""Spans out of Jaeger: what its JSON becomes, and that a full answer is never taken for a whole one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from onceproof_chaos.jaeger import span_of
from onceproof_chaos.spans import Span, read_spans, summarise
from onceproof_chaos.traces import TraceStore, TraceStoreError, write_spans

# As Jaeger 2.0.0 gave it for spans that were sent over OTLP: a trace id whose first half is zero, and
# a span that is both a child of another and linked to it.
TRACE: dict[str, Any] = {
    "traceID": "02f5a7ebb724c5e9",
    "spans": [
        {
            "traceID": "02f5a7ebb724c5e9",
            "spanID": "5c39534743665ad6",
            "operationName": "process orders",
            "references": [
                {
                    "refType": "FOLLOWS_FROM",
                    "traceID": "02f5a7ebb724c5e9",
                    "spanID": "9c1df467b85a7efd",
                }
            ],
            "startTime": 1795552377917365,
            "duration": 271,
            "tags": [
                {"key": "big", "type": "int64", "value": "1152921504606846976"},
                {"key": "error", "type": "bool", "value": True},
                {"key": "messaging.operation.type", "type": "string", "value": "process"},
                {"key": "onceproof.dedup.hit", "type": "bool", "value": True},
                {"key": "onceproof.delivery.attempt", "type": "int64", "value": 2},
                {"key": "onceproof.order.id", "type": "string", "value": "o-1"},
                {"key": "otel.scope.name", "type": "string", "value": "onceproof"},
                {"key": "otel.status_code", "type": "string", "value": "ERROR"},
                {"key": "otel.status_description", "type": "string", "value": "ValueError"},
                {"key": "ratio", "type": "float64", "value": 1},
                {"key": "span.kind", "type": "string", "value": "consumer"},
            ],
            "logs": [
                {
                    "timestamp": 1795552377917621,
                    "fields": [
                        {"key": "event", "type": "string", "value": "exception"},
                        {"key": "exception.message", "type": "string", "value": "boom"},
                    ],
                }
            ],
            "processID": "p1",
            "warnings": None,
        },
        {
            "traceID": "02f5a7ebb724c5e9",
            "spanID": "9c1df467b85a7efd",
            "operationName": "POST /orders",
            "references": [],
            "startTime": 1795552377913443,
            "duration": 24,
            "tags": [{"key": "span.kind", "type": "string", "value": "server"}],
            "logs": [],
            "processID": "p2",
            "warnings": None,
        },
    ],
    "processes": {
        "p1": {
            "serviceName": "consumer",
            "tags": [{"key": "service.instance.id", "type": "string", "value": "consumer-xyz"}],
        },
        "p2": {"serviceName": "producer", "tags": []},
    },
    "warnings": None,
}
ORDER_TRACE = "000000000000000002f5a7ebb724c5e9"


def of_recorded() -> tuple[Span, Span]:
    process, placed = (span_of(span, TRACE["processes"]) for span in TRACE["spans"])
    return process, placed


def test_kind_status_instance_and_times_come_back() -> None:
    process, placed = of_recorded()
    assert (process.name, process.kind, process.service) == (
        "process orders",
        "consumer",
        "consumer",
    )
    assert (process.status, process.status_message) == ("error", "ValueError")
    assert process.instance == "consumer-xyz"
    assert process.start == pytest.approx(1795552377.917365, abs=1e-6)
    assert process.end - process.start == pytest.approx(271e-6, abs=1e-6)
    assert (placed.status, placed.kind, placed.instance) == ("unset", "server", "")


def test_attributes_keep_their_types_and_hold_nothing_of_jaegers_own() -> None:
    process, _ = of_recorded()
    assert process.attributes == {
        "big": 2**60,
        "messaging.operation.type": "process",
        "onceproof.dedup.hit": True,
        "onceproof.delivery.attempt": 2,
        "onceproof.order.id": "o-1",
        "ratio": 1.0,
    }
    assert process.is_process
    assert (process.order_id, process.attempt) == ("o-1", 2)
    assert summarise([process]).redeliveries == 1
    assert process.events[0]["name"] == "exception"
    assert process.events[0]["attributes"] == {"exception.message": "boom"}


def test_a_parent_that_is_also_linked_to_is_both() -> None:
    process, placed = of_recorded()
    assert process.trace_id == placed.trace_id == ORDER_TRACE
    assert process.parent_span_id == placed.span_id
    assert process.links == (
        {"trace_id": ORDER_TRACE, "span_id": placed.span_id, "attributes": {}},
    )
    assert placed.parent_span_id is None


def test_a_link_into_another_trace_is_no_parent() -> None:
    span = TRACE["spans"][1] | {
        "references": [
            {"refType": "FOLLOWS_FROM", "traceID": "ab", "spanID": "1"},
            {"refType": "CHILD_OF", "traceID": "02f5a7ebb724c5e9", "spanID": "2"},
        ]
    }
    converted = span_of(span, TRACE["processes"])
    assert converted.parent_span_id == "0000000000000002"
    assert [link["span_id"] for link in converted.links] == ["0000000000000001"]


@pytest.mark.parametrize(
    ("warning", "moved_us"),
    [
        ("This span's timestamps were adjusted by -312.345ms", -312345),
        ("This span's timestamps were adjusted by 85.4µs", 85),
        ("This span's timestamps were adjusted by -1m1.5s", -61_500_000),
        ("clock skew adjustment disabled; not applying calculated delta of 1.5s", 0),
    ],
)
def test_a_span_that_jaeger_moved_is_moved_back(warning: str, moved_us: int) -> None:
    recorded = TRACE["spans"][0]
    moved = recorded | {
        "startTime": recorded["startTime"] + moved_us,
        "logs": [log | {"timestamp": log["timestamp"] + moved_us} for log in recorded["logs"]],
        "warnings": [warning],
    }
    assert span_of(moved, TRACE["processes"]) == of_recorded()[0]


def test_a_run_folder_gets_the_lines_that_the_services_write(tmp_path: Path) -> None:
    spans = list(of_recorded())
    write_spans(tmp_path / "spans.jsonl", spans)
    line = json.loads((tmp_path / "spans.jsonl").read_text().splitlines()[0])
    assert (line["start"], line["end"]) == (1795552377917365000, 1795552377917636000)
    assert list(read_spans(tmp_path / "spans.jsonl")) == spans


class Jaeger:
    """As much of the query API as is used, over these spans, with its limit."""

    def __init__(self, *spans: tuple[str, str, float]) -> None:
        self.spans = spans
        self.links: dict[str, str] = {}
        self.tags: dict[str, str] = {}
        self.requests = 0

    async def __call__(self, path: str) -> bytes | None:
        self.requests += 1
        url = urlsplit(path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        services = sorted({service for service, _, _ in self.spans})
        if url.path == "/api/services":
            return json.dumps({"data": services, "errors": None}).encode()
        if url.path != "/api/traces":
            return None
        wanted = json.loads(query.get("tags", "{}")).get("onceproof.order.id")
        traces = [
            self.trace(service, trace, at)
            for service, trace, at in self.spans
            if service == query["service"]
            and int(query["start"]) <= at * 1e6 <= int(query["end"])
            and wanted in (None, self.tags.get(trace))
        ]
        return json.dumps({"data": traces[-int(query["limit"]) :], "errors": None}).encode()

    def trace(self, service: str, trace: str, at: float) -> dict[str, Any]:
        links = [self.links[trace]] if trace in self.links else []
        order = [self.tags[trace]] if trace in self.tags else []
        return {
            "traceID": trace,
            "processes": {"p1": {"serviceName": service, "tags": []}},
            "spans": [
                {
                    "traceID": trace,
                    "spanID": trace,
                    "operationName": f"of {trace}",
                    "references": [
                        {"refType": "FOLLOWS_FROM", "traceID": link, "spanID": link}
                        for link in links
                    ],
                    "startTime": round(at * 1e6),
                    "duration": 5,
                    "tags": [
                        {"key": "onceproof.order.id", "type": "string", "value": o} for o in order
                    ],
                    "logs": [],
                    "processID": "p1",
                }
            ],
        }


def names(spans: Sequence[Span]) -> list[str]:
    return [span.name for span in spans]


async def test_every_service_and_span_of_a_window_once_in_times_order() -> None:
    jaeger = Jaeger(
        ("relay", "3", 103.0), ("consumer", "2", 102.0), ("relay", "1", 101.0), ("relay", "9", 99.0)
    )
    spans = await TraceStore(jaeger, "store").spans(100.0, 110.0)
    assert names(spans) == ["of 1", "of 2", "of 3"]


async def test_a_full_answer_is_never_taken_for_a_whole_one() -> None:
    jaeger = Jaeger(*(("relay", f"{i:x}", 100 + i / 10) for i in range(100)))
    spans = await TraceStore(jaeger, "store", limit=7).spans(100.0, 110.0)
    assert len(spans) == 100
    assert jaeger.requests > 100 / 7


async def test_too_many_traces_in_a_millisecond_are_an_error_and_not_a_cut() -> None:
    jaeger = Jaeger(*(("relay", f"{i:x}", 100.5) for i in range(8)))
    assert len(await TraceStore(jaeger, "store", limit=9).spans(100.0, 101.0)) == 8
    with pytest.raises(TraceStoreError, match="would leave some out; ask with a higher limit"):
        await TraceStore(jaeger, "store", limit=8).spans(100.0, 101.0)


async def test_an_order_is_its_traces_and_the_batches_that_link_into_them() -> None:
    jaeger = Jaeger(
        ("consumer", "b", 102.0), ("consumer", "c", 103.0),
        ("producer", "a", 101.0), ("relay", "d", 104.0),
    )  # fmt: skip
    jaeger.tags = {"a": "o-1", "c": "o-2"}
    jaeger.links = {"b": "a", "d": "c"}
    store = TraceStore(jaeger, "store")
    assert names(await store.of_order("o-1", since=0)) == ["of a", "of b"]
    assert await store.of_order("o-3", since=0) == []
    assert await store.of_order("o-1", since=101.5) == []


async def test_a_trace_that_is_not_there_is_empty() -> None:
    assert await TraceStore(Jaeger(), "store").trace("abc") == []


@pytest.mark.parametrize(
    ("body", "match"),
    [
        (None, r"has no /api/services; is it Jaeger's query service \(port 16686\)"),
        (b"<html>", "did not answer with JSON"),
        (b'{"data": null, "errors": [{"code": 400, "msg": "no"}]}', "refused"),
    ],
)
async def test_what_is_no_jaeger_is_an_error_that_says_so(body: bytes | None, match: str) -> None:
    async def fetch(_: str) -> bytes | None:
        return body

    with pytest.raises(TraceStoreError, match=match):
        await TraceStore(fetch, "store").spans(1.0, 2.0)


async def test_a_trace_in_another_format_is_an_error() -> None:
    async def fetch(path: str) -> bytes | None:
        services = path == "/api/services"
        return b'{"data": ["a"]}' if services else b'{"data": [{"spans": [{}], "processes": {}}]}'

    with pytest.raises(TraceStoreError, match="not in Jaeger's format"):
        await TraceStore(fetch, "store").spans(1.0, 2.0)
