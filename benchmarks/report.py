"""Results for programs (JSON), and for people in a terminal; the page is `benchmarks.page`."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any, Final

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.bench import Outcome
from benchmarks.contest import Answer
from benchmarks.figures import Sample, Spread
from benchmarks.service_memory import ServiceMemory

RESULTS: Final = Path(__file__).parent / "results"
SCHEMA: Final = 2
_PACKAGES: Final = (
    "onceproof", "sqlalchemy", "asyncpg", "aiobotocore", "uvloop", "opentelemetry-api",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Footprint:
    """What the library costs beside throughput."""

    crash_point_ns: float
    imports_rss_mb: float
    service: ServiceMemory | None


@dataclass(frozen=True, slots=True)
class Results:
    """Everything that one benchmark measured, and on what."""

    outcomes: Sequence[Outcome]
    parameters: dict[str, Any]
    postgres_version: str
    postgres_settings: dict[str, str]
    pgbench: str
    queue_server: str | None
    footprint: Footprint | None

    @property
    def invalid(self) -> list[str]:
        """Runs that did the work wrongly: the benchmark has failed."""
        return [
            f"{outcome.contest.name}, {name}: {why}"
            for outcome in self.outcomes
            for name, why in outcome.invalid.items()
        ]

    def as_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "schema": SCHEMA,
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "valid": not self.invalid,
            "parameters": self.parameters,
            "versions": {
                "python": platform.python_version(),
                **{package: _version(package) for package in _PACKAGES},
                "postgres": self.postgres_version,
                "pgbench": self.pgbench,
                "queue server": self.queue_server,
            },
            "machine": {
                "platform": platform.platform(),
                "cpus": os.cpu_count(),
                "load_average": [round(load, 2) for load in os.getloadavg()],
            },
            "postgres_settings": self.postgres_settings,
            "contests": [contest_json(outcome) for outcome in self.outcomes],
            "footprint": asdict(self.footprint) if self.footprint else None,
        }

    def save(self, folder: Path, page: str) -> tuple[Path, Path]:
        """Write JSON and page into a folder; both paths."""
        folder.mkdir(parents=True, exist_ok=True)
        stem = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
        data, html = folder / f"{stem}.json", folder / f"{stem}.html"
        data.write_text(json.dumps(self.as_json(), indent=2) + "\n")
        html.write_text(page)
        return data, html

    def show(self, console: Console) -> None:
        """Print the tables."""
        console.print(_ratios([answer for each in self.outcomes for answer in each.answers()]))
        for outcome in self.outcomes:
            if outcome.samples:
                console.print(_contenders(outcome))
        for why in self.invalid:
            console.print(f"[red]invalid:[/] {why}", highlight=False, soft_wrap=True)
        console.print(
            f"Postgres {self.postgres_version}, "
            + ", ".join(f"{name}={value}" for name, value in self.postgres_settings.items()),
            style="dim",
        )
        if self.footprint is None:
            return
        console.print(f"crash point, disarmed: {self.footprint.crash_point_ns:.0f} ns")
        console.print(f"consumer service, imports only: {self.footprint.imports_rss_mb:.0f} MB RSS")
        if service := self.footprint.service:
            console.print(
                f"consumer service, {service.orders} orders: {service.idle_mb:.0f} MB RSS when ready, "
                f"{service.peak_mb:.0f} MB at most ({service.orders_per_s:.0f} orders/s)"
            )


def contest_json(outcome: Outcome) -> dict[str, Any]:
    """One contest with its contenders, its answers, and what was not run and why."""
    return {
        "name": outcome.contest.name,
        "title": outcome.contest.title,
        "timed": outcome.contest.timed,
        "not_run": outcome.why_not,
        "absent": outcome.absent,
        "invalid": outcome.invalid,
        "contenders": [
            {"name": name, **_summary(samples)} for name, samples in outcome.samples.items()
        ],
        "answers": [
            {
                **asdict(answer.question),
                "value": answer.value,
                "low": answer.low,
                "high": answer.high,
                "met": answer.met,
                "not_run": answer.why_not,
            }
            for answer in outcome.answers()
        ],
    }


def _summary(samples: Sequence[Sample]) -> dict[str, Any]:
    used = [sample.resources for sample in samples if sample.resources is not None]
    names = {name for each in used for name in each.cpu_s}
    return {
        "orders_per_s": asdict(Spread.of(sample.orders_per_s for sample in samples)),
        "cpu_s_per_1000": {
            name: median(
                each.resources.cpu_s[name] * 1000 / each.orders
                for each in samples
                if each.resources is not None and name in each.resources.cpu_s
            )
            for name in sorted(names)
        },
        "wal_bytes_per_order": _median_of(
            sample.resources.wal_bytes / sample.orders
            for sample in samples
            if sample.resources is not None and sample.resources.wal_bytes is not None
        ),
        "fsyncs_per_order": _median_of(
            sample.resources.fsyncs / sample.orders
            for sample in samples
            if sample.resources is not None and sample.resources.fsyncs is not None
        ),
        "sqs_requests_per_order": _median_of(
            found for sample in samples if (found := sample.sqs_requests_per_order) is not None
        ),
        "peak_rss_mb": {
            name: max(each.peak_rss_mb[name] for each in used if name in each.peak_rss_mb)
            for name in sorted({name for each in used for name in each.peak_rss_mb})
        },
        "samples": [asdict(sample) for sample in samples],
    }


def _median_of(values: Any) -> float | None:  # noqa: ANN401 - any iterable of numbers
    known = list(values)
    return median(known) if known else None


def _ratios(answers: Sequence[Answer]) -> Table:
    table = Table(title="Ratios of medians", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("#", justify="right")
    table.add_column("")
    for heading in ("value", "spread", "goal", ""):
        table.add_column(heading, justify="right", no_wrap=True)
    for answer in answers:
        question = answer.question
        figure = str(question.figure or "")
        if answer.value is None:
            table.add_row(figure, question.text, "-", "", goal_text(answer), "not run")
            table.add_row("", f"[dim]not run because: {answer.why_not}[/]")
            continue
        met = {True: "[green]met[/]", False: "[red]not met[/]", None: ""}[answer.met]
        table.add_row(
            figure, question.text, number(answer.value, question.unit),
            f"{number(answer.low)}..{number(answer.high)}", goal_text(answer), met,
        )  # fmt: skip
    return table


def _contenders(outcome: Outcome) -> Table:
    table = Table(title=outcome.contest.title, box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    for heading in ("orders/s", "CPU s / 1000", "WAL B,\nfsyncs / order", "RSS MB"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, samples in outcome.samples.items():
        found = _summary(samples)
        rate = found["orders_per_s"]
        table.add_row(
            name,
            f"{rate['median']:.0f}\n{rate['low']:.0f}..{rate['high']:.0f}"
            if outcome.contest.timed else "-",
            _lines(found["cpu_s_per_1000"], ".3f"),
            f"{number(found['wal_bytes_per_order'])}\n{number(found['fsyncs_per_order'])}",
            _lines(found["peak_rss_mb"], ".0f"),
        )  # fmt: skip
    return table


def _lines(by_process: dict[str, float], form: str) -> str:
    return "\n".join(f"{who} {value:{form}}" for who, value in by_process.items())


def goal_text(answer: Answer) -> str:
    """E.g. `>= 0.5`; empty where there is no goal."""
    goal = answer.question.goal
    sign = ">=" if answer.question.better == "more" else "<="
    return "" if goal is None else f"{sign} {goal:g}"


def number(value: float | None, unit: str = "") -> str:
    """Three significant digits; whole numbers from a hundred on."""
    if value is None:
        return "-"
    text = f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{text} {unit}".rstrip()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
