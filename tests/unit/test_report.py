"""The report on a synthetic pair of runs: right words, self-contained, escaped, small."""

from __future__ import annotations

import json
import random
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from onceproof.crashpoints import CRASH_POINTS, Action
from onceproof.variants import parse_variant
from onceproof_chaos import jsonl
from onceproof_chaos.evidence import (
    CaptureRow,
    ChargeRow,
    Evidence,
    InboxRow,
    OrderRow,
    OutboxRow,
    queries_as_run,
)
from onceproof_chaos.faultlog import FaultEvent, FaultEventKind
from onceproof_chaos.history import Finished, HistoryWriter, Outcome
from onceproof_chaos.plan import Plan, build_plan
from onceproof_chaos.report import render, write_report
from onceproof_chaos.runfolder import RunFolder, RunFolderError, RunInfo
from onceproof_chaos.workload import generate

START = 1_790_000_000.0
RATE = 12.0


def build_run(root: Path, variant: str, *, seed: int = 42, orders: int = 200) -> RunFolder:  # noqa: C901 - one order after the other, top to bottom
    """A run as the proving ground leaves it: naive breaks promises at its faults, hardened none."""
    rng = random.Random(seed)
    naive = variant == "naive"
    plan = build_plan(
        seed,
        orders,
        kills_per_point=dict.fromkeys(CRASH_POINTS, 4),
        stalls=4,
        dropped=2,
        unknown=2,
        provider_timeouts=2,
    )
    hit = {fault.orders[0]: fault for fault in plan.faults}
    run = RunFolder.create(root, variant, seed)
    faults: list[FaultEvent] = []
    captures: list[CaptureRow] = []
    charges: list[ChargeRow] = []
    stored: list[OrderRow] = []
    with HistoryWriter(run.history_path) as history, jsonl.Appender(run.spans_path) as spans:
        for index, order in enumerate(generate(seed, orders)):
            at = START + index / RATE + rng.random() / 10
            fault = hit.get(order.order_id)
            outcome = Outcome.OK
            if fault is not None:
                if order.impatient:
                    outcome = Outcome.INFO
                reached = FaultEvent(
                    FaultEventKind.REACHED,
                    at,
                    fault.id,
                    fault.point,
                    fault.action,
                    order.order_id,
                    1,
                )
                faults.append(reached)
                if fault.action is Action.KILL:
                    faults.append(replace(reached, event=FaultEventKind.KILLED, at=at + 0.05))
                    faults.append(replace(reached, event=FaultEventKind.RESTARTED, at=at + 1.2))
                elif fault.action is Action.STALL:
                    faults.append(replace(reached, event=FaultEventKind.RESUMED, at=at + 4))
            point = fault.point if fault else ""
            times = 1
            if naive and point in ("producer.after_commit", "relay.before_publish"):
                times = 0
            elif naive and point.startswith(("consumer.after", "relay.after", "provider")):
                times = 2 + (rng.random() < 0.15)
            deliveries = 2 if fault and not point.startswith("producer") else 1
            history.finished(
                Finished(
                    order.order_id, order.amount, order.currency, outcome,
                    201 if outcome is Outcome.OK else None, 1 + bool(fault), at, at + 0.02,
                )
            )  # fmt: skip
            event = f"0199-{order.order_id}"
            stored.append(OrderRow(order.order_id, order.amount, order.currency, event, at))
            for number in range(times):
                capture = CaptureRow(
                    f"ch_{index:05d}{number}", order.order_id, order.amount, order.currency,
                    None if naive else f"charge-{event}", at + 0.1 + 3.1 * number,
                )  # fmt: skip
                captures.append(capture)
                if not (naive and point == "consumer.after_charge" and number == 0):
                    charges.append(
                        ChargeRow(
                            len(charges) + 1, order.order_id, event, order.amount, order.currency,
                            capture.id, number + 1, capture.created_at + 0.01,
                        )
                    )  # fmt: skip
            for attempt in range(1, deliveries + 1):
                spans.append(process_span(event, order.order_id, attempt, at + 3 * (attempt - 1)))
    jsonl.write_rows(run.faults_path, [e.as_json() for e in sorted(faults, key=lambda e: e.at)])
    run.write_plan(plan)
    Evidence(
        orders=tuple(stored),
        captures=tuple(captures),
        charges=tuple(charges),
        inbox=tuple(InboxRow("payments", row.event_id or "", row.created_at) for row in stored),
        outbox=tuple(
            OutboxRow(row.event_id or "", row.order_id, "t", 1, None, "m", row.created_at, None)
            for row in stored
        ),
    ).save(run.evidence_dir)
    (run.evidence_dir / "queries.sql").write_text(queries_as_run(START))
    run.write_info(
        RunInfo(
            seed=seed,
            variant=variant,
            fixes=parse_variant(variant).as_dict(),
            orders=orders,
            settings={"visibility_timeout_s": 3, "consumers": 2, "rate_per_s": RATE},
            versions={"python": "3.11.9", "postgres": "18.0", "onceproof": "0.1.0"},
            command=f"onceproof campaign run --orders {orders} --variant {variant} --seed {seed}",
            started_at=START,
            ended_at=START + orders / RATE + 9,
            duration_s=orders / RATE + 14.2,
            drained=True,
        )
    )
    run.write_verdict(run.judge())
    return run


def process_span(event: str, order: str, attempt: int, at: float) -> dict[str, Any]:
    return {
        "name": "process orders",
        "kind": "consumer",
        "trace_id": "0" * 32,
        "span_id": "0" * 16,
        "parent_span_id": None,
        "start": int(at * 1e9),
        "end": int(at * 1e9) + 1_000_000,
        "attributes": {
            "messaging.operation.type": "process",
            "messaging.message.id": f"m-{event}",
            "onceproof.event.id": event,
            "onceproof.order.id": order,
            "onceproof.delivery.attempt": attempt,
            "onceproof.dedup.hit": attempt > 1,
            "onceproof.outcome": "duplicate" if attempt > 1 else "processed",
        },
    }


VOID = {"meta", "link", "br", "img", "input", "hr"}


class Page(HTMLParser):
    """Checks that tags are closed in order, and collects text and attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.ids: list[str] = []
        self.words: list[str] = []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += attrs
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, _tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def test_the_pair_says_what_happened(tmp_path: Path) -> None:
    naive, hardened = build_run(tmp_path, "naive"), build_run(tmp_path, "hardened")
    counts = naive.verdict()
    html = render(naive, [hardened])
    page = Page(html)
    assert counts.double_charged > 0
    assert counts.lost > 0
    heading = re.search(r"<h1>(.*?)</h1>", html)
    assert heading is not None
    assert f"naive charged {counts.double_charged} orders twice or more" in heading[1]
    assert f"lost {counts.lost} orders" in heading[1]
    assert "Hardened charged every accepted order exactly once" in heading[1]
    assert "Every accepted order was charged exactly once" in page.text
    assert naive.info().command in page.text
    assert "FROM captures" in page.text
    for fault_point in CRASH_POINTS:
        assert fault_point in page.text
    assert html.count("o-42-000017: ") == 2


def test_the_page_is_self_contained_and_its_links_resolve(tmp_path: Path) -> None:
    html = render(build_run(tmp_path, "naive"), [build_run(tmp_path, "hardened")])
    page = Page(html)
    assert len(page.ids) == len(set(page.ids))
    for name, value in page.attributes:
        assert name not in {"src", "srcset"}
        assert not name.startswith("on")
        if name == "href":
            assert value is not None
            assert value.removeprefix("#") in page.ids
    assert not re.search(r"https?://|@import|url\(|<script", html)


def test_breaches_are_capped_and_the_rest_is_pointed_to(tmp_path: Path) -> None:
    run = build_run(tmp_path, "naive")
    page = Page(render(run))
    more = run.verdict().double_charged - 10
    assert more > 0
    assert f"and {more} more, in {run.path.name}/verdict.json" in page.text


def test_texts_of_the_run_are_escaped(tmp_path: Path) -> None:
    run = build_run(tmp_path, "hardened", orders=60)
    run.write_info(run.info().model_copy(update={"command": "<script>alert(1)</script>"}))
    capture = CaptureRow("ch-1", "<b>o</b>", 1, "EUR", None, START)
    evidence = run.evidence()
    replace(evidence, captures=(*evidence.captures, capture)).save(run.evidence_dir)
    html = render(run)
    assert "<script" not in html
    assert "<b>o" not in html
    assert "&lt;b&gt;o" in html


def test_a_run_that_proves_nothing_says_so(tmp_path: Path) -> None:
    run = build_run(tmp_path, "hardened", orders=60)
    run.faults_path.write_text("")
    run.spans_path.write_text("")
    run.write_plan(Plan(42, 60))
    page = Page(render(run))
    assert "inconclusive" in page.text
    assert "No fault was injected" in page.text
    assert "No order was harmed, but the run does not prove" in page.text


def test_a_run_without_a_single_charge_is_drawn(tmp_path: Path) -> None:
    run = build_run(tmp_path, "naive", orders=60)
    Evidence().save(run.evidence_dir)
    assert f"this run lost {run.judge().lost} orders" in Page(render(run)).text


def test_a_thousand_orders_stay_small(tmp_path: Path) -> None:
    runs = [build_run(tmp_path, variant, orders=1000) for variant in ("naive", "hardened")]
    write_report(tmp_path / "report.html", runs)
    assert (tmp_path / "report.html").stat().st_size < 3_000_000


def test_a_corrupt_run_has_no_report(tmp_path: Path) -> None:
    run = build_run(tmp_path, "hardened", orders=60)
    (run.evidence_dir / "captures.jsonl").write_text("{")
    with pytest.raises(RunFolderError, match=r"captures\.jsonl:1"):
        render(run)


def test_the_verdict_is_recomputed_and_not_copied(tmp_path: Path) -> None:
    run = build_run(tmp_path, "naive", orders=60)
    document = json.loads((run.path / "verdict.json").read_text())
    (run.path / "verdict.json").write_text(json.dumps(document | {"verdict": "pass"}))
    assert "onceproof: naive fail" in render(run)
