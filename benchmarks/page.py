"""Results as one HTML page that needs nothing else: plots are inline SVG, no scripts, light and dark.

It is made from the JSON document alone, so that `python -m benchmarks.page results.json` draws it again.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from benchmarks.report import number

_TEMPLATE: Final = "page.html.j2"
_WIDTH: Final = 640
_OURS: Final = frozenset({"onceproof", "onceproof relay", "onceproof, end to end", "hardened"})


@dataclass(frozen=True, slots=True)
class Bar:
    """A contender's bar; x positions in the units of the plot's view box."""

    name: str
    text: str
    end: float
    low: float
    high: float
    dots: Sequence[float]
    ours: bool


@dataclass(frozen=True, slots=True)
class Gauge:
    """A ratio as a bar against its goal: the goal is always at the same place."""

    question: str
    figure: int | None
    value: str
    spread: str
    goal: str
    verdict: str
    end: float
    low: float
    high: float
    mark: float | None
    why_not: str | None


def bars(contenders: Sequence[Mapping[str, Any]]) -> list[Bar]:
    """Orders per second of a contest's contenders, on one scale from zero."""
    most = max((each["orders_per_s"]["high"] for each in contenders), default=0.0) or 1.0

    def at(value: float) -> float:
        return round((_WIDTH - 4) * value / most, 1)

    return [
        Bar(
            name=each["name"],
            text=f"{number(each['orders_per_s']['median'])} orders/s",
            end=at(each["orders_per_s"]["median"]),
            low=at(each["orders_per_s"]["low"]),
            high=at(each["orders_per_s"]["high"]),
            dots=[at(sample["orders"] / sample["seconds"]) for sample in each["samples"]],
            ours=each["name"] in _OURS,
        )
        for each in contenders
    ]


def gauge(answer: Mapping[str, Any]) -> Gauge:
    """One answer, drawn so that its goal is at two thirds of the width."""
    value, goal = answer["value"], answer["goal"]
    sign = ">=" if answer["better"] == "more" else "<="
    full = (goal or value or 1.0) * 1.5

    def at(amount: float | None) -> float:
        return round(min(max((amount or 0.0) / full, 0.0), 1.0) * _WIDTH, 1)

    verdict = {True: "met", False: "missed", None: ""}[answer["met"]]
    return Gauge(
        question=answer["text"],
        figure=answer["figure"],
        value=number(value, answer["unit"]),
        spread="" if value is None else f"{number(answer['low'])} to {number(answer['high'])}",
        goal="" if goal is None else f"{sign} {goal:g}",
        verdict="not run" if answer["not_run"] else verdict,
        end=at(value),
        low=at(answer["low"]),
        high=at(answer["high"]),
        mark=None if goal is None else at(goal),
        why_not=answer["not_run"],
    )


def resources(contender: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What a contender used beside time, as (name, text)."""
    used = [
        (f"CPU s per 1000, {who}", number(value))
        for who, value in contender["cpu_s_per_1000"].items()
    ]
    for name, text in (
        ("wal_bytes_per_order", "WAL bytes per order"),
        ("fsyncs_per_order", "fsyncs per order"),
        ("sqs_requests_per_order", "SQS requests per order"),
    ):
        if contender[name] is not None:
            used.append((text, number(contender[name])))
    used += [(f"RSS, {who}", f"{mb:.0f} MB") for who, mb in contender["peak_rss_mb"].items()]
    return used


def render(document: Mapping[str, Any]) -> str:
    """The page of a results document; see `benchmarks.report.Results.as_json`."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=select_autoescape(["html", "j2"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    contests = [
        {
            **contest,
            "gauges": [gauge(answer) for answer in contest["answers"]],
            "bars": bars(contest["contenders"]) if contest["timed"] else [],
            "resources": [(each["name"], resources(each)) for each in contest["contenders"]],
        }
        for contest in document["contests"]
    ]
    asked = [gauge for contest in contests for gauge in contest["gauges"] if gauge.goal]
    return environment.get_template(_TEMPLATE).render(
        document=document,
        contests=contests,
        goals=sorted(asked, key=lambda each: each.figure or 99),
        counts={
            verdict: sum(gauge.verdict == verdict for gauge in asked)
            for verdict in ("met", "missed", "not run")
        },
        width=_WIDTH,
    )


def main() -> None:
    """Draw the page of a results file beside it."""
    source = Path(sys.argv[1])
    target = source.with_suffix(".html")
    target.write_text(render(json.loads(source.read_text())))
    print(target)


if __name__ == "__main__":
    main()
