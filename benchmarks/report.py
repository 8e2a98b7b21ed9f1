"""Results for people (a table on stderr) and for programs (JSON)."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, Final

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.figures import Comparison, Sample, Spread
from benchmarks.service_memory import ServiceMemory

RESULTS: Final = Path(__file__).parent / "results"
_PACKAGES: Final = ("onceproof", "sqlalchemy", "asyncpg", "uvloop", "opentelemetry-api")


@dataclass(frozen=True, slots=True)
class Results:
    """Everything that one benchmark measured, and on what."""

    comparisons: Sequence[Comparison]
    parameters: dict[str, Any]
    postgres_version: str
    postgres_settings: dict[str, str]
    pgbench: str
    crash_point_ns: float
    imports_rss_mb: float
    peak_rss_mb: float
    service: ServiceMemory | None
    growth: dict[str, float] | None = None

    def as_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "parameters": self.parameters,
            "versions": {
                "python": platform.python_version(),
                **{package: version(package) for package in _PACKAGES},
                "postgres": self.postgres_version,
                "pgbench": self.pgbench,
            },
            "machine": {
                "platform": platform.platform(),
                "cpus": os.cpu_count(),
                "load_average": os.getloadavg(),
            },
            "postgres_settings": self.postgres_settings,
            "comparisons": {
                comparison.name: {
                    "ratio": asdict(comparison.ratio()),
                    "ours": _side(comparison.ours),
                    "pgbench": _side(comparison.ceiling),
                }
                for comparison in self.comparisons
            },
            "crash_point_ns": self.crash_point_ns,
            "imports_rss_mb": self.imports_rss_mb,
            "peak_rss_mb": self.peak_rss_mb,
            "consumer_service": asdict(self.service) if self.service else None,
            "memory_growth": self.growth,
        }

    def save(self) -> Path:
        """Write the JSON into the results folder; the file."""
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json"
        path.write_text(json.dumps(self.as_json(), indent=2) + "\n")
        return path

    def show(self, console: Console) -> None:
        """Print the tables."""
        console.print(self._throughput())
        console.print("ratio: each run of ours by the pgbench run after it", style="dim")
        console.print(
            f"Postgres {self.postgres_version}, "
            + ", ".join(f"{name}={value}" for name, value in self.postgres_settings.items()),
            style="dim",
        )
        console.print(f"crash point, disarmed: {self.crash_point_ns:.0f} ns")
        console.print(f"consumer service, imports only: {self.imports_rss_mb:.0f} MB RSS")
        if self.service:
            console.print(
                f"consumer service, {self.service.orders} orders: {self.service.idle_mb:.0f} MB RSS "
                f"when ready, {self.service.peak_mb:.0f} MB at most "
                f"({self.service.orders_per_s:.0f} orders/s)"
            )
        if self.growth:
            console.print(
                f"a consumer over {self.growth['messages']:.0f} messages: "
                f"{self.growth['settled_mb']:.0f} MB after a fifth, {self.growth['last_mb']:.0f} MB "
                f"at the end ({self.growth['growth_percent']:+.1f} %)"
            )
        console.print(f"this process, with its messages: {self.peak_rss_mb:.0f} MB RSS at most")

    def _throughput(self) -> Table:
        table = Table(
            title="Orders per second: median, min..max", box=box.SIMPLE_HEAD, pad_edge=False
        )
        table.add_column("", no_wrap=True)
        for heading in ("onceproof", "pgbench", "ratio", "CPU s /\n1000", "same,\npgbench"):
            table.add_column(heading, justify="right", no_wrap=True)
        for comparison in self.comparisons:
            ours, ceiling = comparison.ours, comparison.ceiling
            table.add_row(
                comparison.name.replace(", ", ",\n"),
                _text(Spread.of(sample.orders_per_s for sample in ours), ".0f"),
                _text(Spread.of(sample.orders_per_s for sample in ceiling), ".0f"),
                _text(comparison.ratio(), ".2f"),
                f"{Spread.of(sample.cpu_s_per_1000 for sample in ours).median:.3f}",
                f"{Spread.of(sample.cpu_s_per_1000 for sample in ceiling).median:.3f}",
            )
        return table


def _side(samples: Sequence[Sample]) -> dict[str, Any]:
    return {
        "orders_per_s": asdict(Spread.of(sample.orders_per_s for sample in samples)),
        "cpu_s_per_1000": asdict(Spread.of(sample.cpu_s_per_1000 for sample in samples)),
        "orders_per_transaction": median(sample.orders_per_transaction for sample in samples),
        "samples": [asdict(sample) for sample in samples],
    }


def _text(spread: Spread, form: str) -> str:
    return f"{spread.median:{form}}\n{spread.low:{form}}..{spread.high:{form}}"
