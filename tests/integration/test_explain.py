"""Explanations of a real run, offline; of the same as a living system; and with evidence taken away."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest
from tests.programs import ANY_AWS
from typer.testing import CliRunner

from onceproof.cli.app import build
from onceproof.errors import ConfigurationError
from onceproof.telemetry import STOPPED_SPAN
from onceproof_chaos.campaign import run_campaign
from onceproof_chaos.conduct import Unwatched
from onceproof_chaos.environment import Servers
from onceproof_chaos.evidence import Evidence
from onceproof_chaos.explain import Index, Reason, Records, explain_all, explain_order
from onceproof_chaos.explain.sources import LiveSystem, of_run
from onceproof_chaos.explain.truth import Truth
from onceproof_chaos.faultlog import FaultEventKind
from onceproof_chaos.runfolder import RunFolder
from onceproof_chaos.settings import CampaignSettings
from onceproof_chaos.spans import Span
from onceproof_chaos.traces import TraceStore

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

ORDERS = 100
SINGLE_PIECES = 150
SAMPLES = 20


@pytest.fixture(scope="module")
def run(
    postgres_server: Any, sqs_endpoint: str, tmp_path_factory: pytest.TempPathFactory
) -> RunFolder:
    """A run with every fault."""

    async def carry_out() -> RunFolder:
        name, url = await postgres_server.create()
        settings = replace(CampaignSettings.demo("hardened", ORDERS, 11, "sqs"), visibility_s=2)
        async with asyncio.timeout(240):
            folder, _ = await run_campaign(
                settings,
                Servers(url, sqs_endpoint, ANY_AWS),
                tmp_path_factory.mktemp("runs"),
                Unwatched(),
            )
        await postgres_server.server.drop_database(name)
        return folder

    return asyncio.run(carry_out())


def onceproof(*words: str) -> tuple[int, dict[str, Any]]:
    done = CliRunner().invoke(build(), [*words, "--json"], catch_exceptions=False)
    return done.exit_code, json.loads(done.stdout) if done.stdout else {}


def reasons(records: Records) -> dict[tuple[str, int], Reason]:
    return {
        explanation.key: explanation.reason
        for order in explain_all(Index(records))
        for explanation in order.redeliveries
    }


def test_nothing_injected_is_explained_wrong(run: RunFolder) -> None:
    code, result = onceproof("explain", "--all", str(run.path))
    assert result["wrong"] == []
    assert code == 0
    assert result["injected"] > 10
    # On a busy machine evidence gets lost, and then it must say so; but not most of the time.
    assert result["share_right"] >= 0.75
    assert result["redeliveries"] == run.spans_summary().redeliveries
    # Those that were not killed have said at their end how often they had received something.
    assert any(span.name == STOPPED_SPAN for span in of_run(run).spans)
    named = set(result["reasons"])
    assert named == {reason.value for reason in Reason}


def test_a_piece_of_evidence_that_is_missing_never_makes_another_reason(run: RunFolder) -> None:
    records = of_run(run)
    injected = Truth(run.plan(), records.faults, records.spans, records.rows).injected
    whole = {key: {reason} for key, reason in reasons(records).items()}
    # On a busy machine a span is late, or lost: what two pieces leave open, one of them may decide.
    for key in [key for key, allowed in whole.items() if allowed == {Reason.UNKNOWN}]:
        whole[key] |= injected[key].expected if key in injected else set(Reason)
    rng = random.Random(1)
    spans, faults = list(records.spans), list(records.faults)
    for _ in range(SINGLE_PIECES):
        place = rng.randrange(len(spans))
        same_or_unknown(whole, replace(records, spans=spans[:place] + spans[place + 1 :]))
    for place, line in enumerate(faults):
        if line.event in {FaultEventKind.KILLED, FaultEventKind.RESUMED}:
            same_or_unknown(whole, replace(records, faults=faults[:place] + faults[place + 1 :]))
    for _ in range(SAMPLES):
        same_or_unknown(whole, replace(records, spans=[s for s in spans if rng.random() > 0.1]))
    for process in {span.instance for span in spans}:
        same_or_unknown(whole, replace(records, spans=[s for s in spans if s.instance != process]))
    same_or_unknown(whole, replace(records, faults=[]))
    same_or_unknown(whole, replace(records, rows=Evidence(), has_database=False))


def same_or_unknown(whole: dict[tuple[str, int], set[Reason]], records: Records) -> None:
    for key, reason in reasons(records).items():
        if key in whole:
            assert reason in {*whole[key], Reason.UNKNOWN}, (key, whole[key])


def test_an_order_is_explained_by_its_id_and_by_its_events(run: RunFolder) -> None:
    # The one that came again most often. How often that is, is chance: an order has one fault of its
    # own, and meets those of others when their process dies.
    order = max(explain_all(Index(of_run(run))), key=lambda o: len(o.redeliveries))
    assert order.redeliveries
    code, by_order = onceproof("explain", order.order_id, "--run", str(run.path))
    _, by_event = onceproof("explain", by_order["events"][0], "--run", str(run.path))
    assert by_order == by_event
    assert len(by_order["redeliveries"]) == len(order.redeliveries)
    assert by_order["captures"] == 1
    assert by_order["money"].startswith("The money moved once")
    open_ones = [e for e in by_order["redeliveries"] if e["reason"] == "unknown"]
    assert code == (3 if open_ones else 0)
    told = CliRunner().invoke(build(), ["explain", order.order_id, "--run", str(run.path)]).stdout
    assert order.redeliveries[0].reason.words in " ".join(told.split())


def test_the_report_tells_some_of_them(run: RunFolder) -> None:
    html = (run.path / "report.html") if (run.path / "report.html").exists() else None
    if html is None:
        onceproof("report", str(run.path))
        html = run.path / "report.html"
    text = html.read_text()
    assert "Why messages came again" in text
    assert text.count('class="story"') > 3
    assert "onceproof explain" in text or text.count('class="story"') < 40


class Jaeger:
    """A run's spans as Jaeger's query API gives them: links without attributes."""

    def __init__(self, spans: Sequence[Span]) -> None:
        self._spans = spans

    async def fetch(self, path: str) -> bytes:
        parts = urlsplit(path)
        if parts.path == "/api/services":
            data: list[Any] = sorted({span.service for span in self._spans})
        else:
            query = {name: values[0] for name, values in parse_qs(parts.query).items()}
            start, end = int(query["start"]) / 1e6, int(query["end"]) / 1e6
            tags = json.loads(query.get("tags", "{}"))
            found = {
                span.trace_id
                for span in self._spans
                if span.service == query["service"]
                and start <= span.start <= end
                and all(span.attributes.get(name) == value for name, value in tags.items())
            }
            data = [self._trace(trace) for trace in sorted(found)][: int(query["limit"])]
        return json.dumps({"data": data}).encode()

    def _trace(self, trace_id: str) -> dict[str, Any]:
        spans = [span for span in self._spans if span.trace_id == trace_id]
        return {
            "traceID": trace_id,
            "spans": [jaeger_span(span) for span in spans],
            "processes": {
                span.instance: {
                    "serviceName": span.service,
                    "tags": [tag("service.instance.id", span.instance)],
                }
                for span in spans
            },
        }


def jaeger_span(span: Span) -> dict[str, Any]:
    references = [("FOLLOWS_FROM", link["trace_id"], link["span_id"]) for link in span.links]
    if span.parent_span_id:
        references.append(("CHILD_OF", span.trace_id, span.parent_span_id))
    tags = dict(span.attributes) | {"otel.status_description": span.status_message or ""}
    return {
        "traceID": span.trace_id,
        "spanID": span.span_id,
        "operationName": span.name,
        "references": [{"refType": r, "traceID": t, "spanID": s} for r, t, s in references],
        "startTime": round(span.start * 1e6),
        "duration": round((span.end - span.start) * 1e6),
        "tags": [tag(name, value) for name, value in tags.items()],
        "logs": [
            {
                "timestamp": round(event["time"] / 1000),
                "fields": [
                    tag("event", event["name"]),
                    *(tag(name, value) for name, value in event["attributes"].items()),
                ],
            }
            for event in span.events
        ],
        "processID": span.instance,
    }


def tag(name: str, value: object) -> dict[str, Any]:
    kinds = {bool: "bool", int: "int64", float: "float64"}
    return {"key": name, "type": kinds.get(type(value), "string"), "value": value}


async def fill(url: str, rows: Evidence) -> None:
    """The rows of a run, in a database of their own."""
    connection = await asyncpg.connect(url)
    try:
        await connection.executemany(
            "INSERT INTO orders (order_id, amount, currency, event_id, created_at) "
            "VALUES ($1, $2, $3, $4, to_timestamp($5))",
            [(r.order_id, r.amount, r.currency, r.event_id, r.created_at) for r in rows.orders],
        )
        await connection.executemany(
            "INSERT INTO charges (order_id, event_id, amount, currency, provider_charge_id, "
            "delivery_attempt, created_at) VALUES ($1, $2, $3, $4, $5, $6, to_timestamp($7))",
            [
                (
                    r.order_id, r.event_id, r.amount, r.currency, r.provider_charge_id,
                    r.delivery_attempt, r.created_at,
                )
                for r in rows.charges
            ],
        )  # fmt: skip
        await connection.executemany(
            "INSERT INTO onceproof.inbox (consumer, event_id, processed_at) "
            "VALUES ($1, $2, to_timestamp($3))",
            [(r.consumer, r.event_id, r.processed_at) for r in rows.inbox],
        )
    finally:
        await connection.close()


async def test_a_living_system_is_explained_as_its_run_folder_was(
    run: RunFolder, database_url: str
) -> None:
    offline = Index(of_run(run))
    await fill(database_url, run.evidence())
    jaeger = Jaeger(list(run.spans()))
    live = LiveSystem(
        store=TraceStore(jaeger.fetch, "jaeger", limit=100_000),
        database_url=database_url,
        provider_database_url=None,
        faults=run.faults_path,
        since=0.0,
    )
    again = [o for o in explain_all(offline) if o.redeliveries][:12]
    for order in again:
        records = await live.about(order.story.events[0].event_id)
        told = explain_order(Index(records), order.order_id)
        assert [(e.key, e.reason) for e in told.redeliveries] == [
            (e.key, e.reason) for e in order.redeliveries
        ]
        assert told.gaps == ["the payment provider's ledger"]
        assert "cannot be said" in told.money


async def test_without_a_database_and_a_log_nothing_is_guessed(run: RunFolder) -> None:
    jaeger = Jaeger(list(run.spans()))
    live = LiveSystem(TraceStore(jaeger.fetch, "jaeger", limit=100_000), None, None, None, 0.0)
    whole = reasons(of_run(run))
    for order in [o for o in explain_all(Index(of_run(run))) if o.redeliveries][:12]:
        told = explain_order(Index(await live.about(order.order_id)), order.order_id)
        for explanation in told.redeliveries:
            assert explanation.reason in {whole[explanation.key], Reason.UNKNOWN}
            if explanation.reason is Reason.UNKNOWN:
                assert explanation.missing


async def test_a_database_that_is_not_there_is_an_error_that_says_what_to_do() -> None:
    live = LiveSystem(None, "postgresql://nobody@127.0.0.1:1/none", None, None, 0.0)
    with pytest.raises(ConfigurationError, match="--provider-database-url"):
        await live.about("o-1")


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("explain",), 2),
        (("explain", "o-1", "--all", "runs/latest"), 2),
        (("explain", "o-1", "--run", "no/such/run"), 2),
        (("explain", "o-1", "--run", "runs/latest", "--traces-url", "http://localhost:1"), 2),
    ],
)
def test_bad_input_is_refused(words: tuple[str, ...], code: int) -> None:
    assert CliRunner().invoke(build(), list(words)).exit_code == code


def test_an_order_that_nobody_knows_is_said_so(run: RunFolder) -> None:
    done = CliRunner().invoke(build(), ["explain", "o-nobody", "--run", str(run.path)])
    assert done.exit_code == 2
    assert "nothing is known of 'o-nobody'" in " ".join(done.stderr.split())
