"""`docs/cdc-or-polling.md` and its picture, made of measurements and never typed.

    make bench ARGS="--only cdc- --repeats 5"
    python -m benchmarks.cdc.page benchmarks/results/FILE.json

The measurements that the page is made of are kept beside it, so that it can be made again.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from pydantic import SecretStr

from benchmarks.cdc.relays import CDC, CDC_DELETED, EACH_SECOND, EACH_TENTH, NOBODY, WOKEN
from benchmarks.cdc.steady import RATES
from benchmarks.figures import Spread
from benchmarks.report import number
from onceproof.outbox import RelaySettings
from onceproof.service import BrokerSettings
from onceproof_relay.cdc.properties import properties
from onceproof_relay.cdc.settings import CdcSettings
from onceproof_relay.settings import RelayServiceSettings

DOCS: Final = Path(__file__).parents[2] / "docs"
PAGE: Final = DOCS / "cdc-or-polling.md"
PICTURE: Final = DOCS / "assets" / "cdc-or-polling.svg"
DATA: Final = DOCS / "assets" / "cdc-or-polling.json"
_KEPT: Final = ("at", "parameters", "versions", "machine", "postgres_settings")
_OF_LATENCY: Final = (WOKEN, EACH_TENTH, EACH_SECOND, CDC)


@dataclass(frozen=True, slots=True)
class Measured:
    """The samples of all contests, by contest and contender."""

    samples: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Measured:
        """The contests about change data capture in a benchmark's results.

        Raises:
            ValueError: one of them was not measured, or not validly.
        """
        found = {}
        for contest in document["contests"]:
            if not contest["name"].startswith("cdc-"):
                continue
            if why := contest["not_run"] or contest["absent"] or contest["invalid"]:
                raise ValueError(f"{contest['name']} was not measured as a whole: {why}")
            found[contest["name"]] = {
                each["name"]: each["samples"] for each in contest["contenders"]
            }
        return cls(found)

    def spread(self, contest: str, contender: str, value: str) -> Spread:
        """Of one value over the repeats.

        Args:
            contest: its name, without `cdc-`.
            contender: its name.
            value: one of a sample's values; `orders_per_s`; `cpu_ms/PROCESS` for each order; or
                `rss/PROCESS` in MB.
        """
        return Spread.of(_value(each, value) for each in self.samples[f"cdc-{contest}"][contender])

    def median(self, contest: str, contender: str, value: str) -> float:
        """The median of it."""
        return self.spread(contest, contender, value).median

    @property
    def repeats(self) -> int:
        """Of the contender that was measured least often."""
        return min(len(each) for contest in self.samples.values() for each in contest.values())


def render(document: Mapping[str, Any]) -> str:
    """The page."""
    measured = Measured.of(document)

    def cell(contest: str, contender: str, value: str, unit: str = "") -> str:
        return number(measured.median(contest, contender, value), unit)

    def spread(contest: str, contender: str, value: str) -> str:
        found = measured.spread(contest, contender, value)
        return f"{number(found.median)} ({number(found.low)}..{number(found.high)})"

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 - Markdown, of our own names and numbers
    )
    return environment.get_template("page.md.j2").render(
        document=document, measured=measured, cell=cell, spread=spread, number=number,
        median=measured.median, rates=list(RATES), latency=_OF_LATENCY, woken=WOKEN,
        each_second=EACH_SECOND, cdc=CDC, deleted=CDC_DELETED, nobody=NOBODY,
        settings=_own_settings(), debezium_settings=_debezium_settings(),
        met_lease=_met_lease(measured),
    )  # fmt: skip


def picture(document: Mapping[str, Any]) -> str:
    """Latency of each relay at each rate, from p50 to p99 with the largest behind, on a log axis."""
    measured = Measured.of(document)
    rows = [(rate, kind.name) for rate in RATES for kind in _OF_LATENCY]
    top, step, left, right = 34, 22, 190, 700
    bottom = top + step * len(rows) + 12 * (len(RATES) - 1)

    def x(ms: float) -> float:
        return round(left + (right - left) * math.log10(max(ms, 1.0)) / math.log10(5000), 1)

    def lines() -> Iterator[str]:
        for ms in (1, 10, 100, 1000):
            yield f'<line class="grid" x1="{x(ms)}" y1="{top - 8}" x2="{x(ms)}" y2="{bottom}"/>'
            yield f'<text class="axis" x="{x(ms)}" y="{top - 14}">{ms} ms</text>'
        for number_, (rate, name) in enumerate(rows):
            y = top + step * number_ + 12 * (number_ // len(_OF_LATENCY)) + 8
            p50, p99, most = (
                measured.median("latency", name, f"{which}_ms_at_{rate}")
                for which in ("p50", "p99", "max")
            )
            kind = "cdc" if name == CDC.name else "polling"
            if number_ % len(_OF_LATENCY) == 0:
                yield f'<text class="rate" x="4" y="{y + 4}">{rate}/s</text>'
            yield f'<text class="name" x="{left - 8}" y="{y + 4}">{name}</text>'
            yield f'<line class="{kind} far" x1="{x(p99)}" y1="{y}" x2="{x(most)}" y2="{y}"/>'
            yield f'<line class="{kind}" x1="{x(p50)}" y1="{y}" x2="{x(p99)}" y2="{y}"/>'
            yield f'<circle class="{kind}" cx="{x(p50)}" cy="{y}" r="4.5"/>'

    return _SVG.format(width=right + 20, height=bottom + 8, content="\n".join(lines()))


_SVG: Final = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img"
     aria-label="Latency from commit to receipt, by relay and rate; the tables have the numbers.">
<style>
text {{ font: 12px system-ui, sans-serif; fill: #777 }}
.axis {{ text-anchor: middle }} .name {{ text-anchor: end }} .rate {{ font-weight: bold }}
.grid {{ stroke: #8884; stroke-width: 1 }}
.polling {{ stroke: #009688; fill: #009688; stroke-width: 5 }}
.cdc {{ stroke: #e67e22; fill: #e67e22; stroke-width: 5 }}
.far {{ stroke-width: 1.5 }} circle {{ stroke-width: 0 !important }}
</style>
{content}
</svg>
"""


def _met_lease(measured: Measured) -> bool:
    """Whether an event of a polling relay that was killed waited for its lease to end."""
    cases = measured.samples["cdc-recovery"]
    return any(
        each["values"]["worst_s"] > RelaySettings().lease_s / 2
        for name, samples in cases.items()
        if name.startswith("polling")
        for each in samples
    )


def _own_settings() -> dict[str, int]:
    """How many settings each relay has besides those of any service with a broker."""
    shared = BrokerSettings.model_fields.keys()
    return {
        "polling": len(RelayServiceSettings.model_fields.keys() - shared),
        "cdc": len(CdcSettings.model_fields.keys() - shared),
    }


def _debezium_settings() -> int:
    """How many lines its configuration has."""
    url = SecretStr("postgresql://reader@db/shop")
    return len(properties(CdcSettings(database_url=url, cdc_database_url=url)))


def kept(document: Mapping[str, Any]) -> dict[str, Any]:
    """What of a benchmark's results the page is made of."""
    contests = [each for each in document["contests"] if each["name"].startswith("cdc-")]
    return {name: document[name] for name in _KEPT} | {
        "contests": [
            {name: each[name] for name in ("name", "not_run", "absent", "invalid")}
            | {
                "contenders": [
                    {"name": one["name"], "samples": one["samples"]} for one in each["contenders"]
                ]
            }
            for each in contests
        ]
    }


def _value(sample: Mapping[str, Any], value: str) -> float:
    kind, _, process = value.partition("/")
    if kind == "orders_per_s":
        return float(sample["orders"] / sample["seconds"])
    if kind == "cpu_ms" and process:
        return float(1000 * sample["resources"]["cpu_s"][process] / sample["orders"])
    if kind == "rss" and process:
        return float(sample["resources"]["peak_rss_mb"][process])
    return float(sample["values"][value])


def main() -> None:
    """Make the page of a benchmark's results."""
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    try:
        document = kept(json.loads(Path(sys.argv[1]).read_text()))
        page, drawn = render(document), picture(document)
    except (OSError, ValueError, KeyError) as error:
        sys.exit(f"error: {sys.argv[1]} cannot be used: {error}")
    DATA.write_text(json.dumps(document, indent=1) + "\n")
    PICTURE.write_text(drawn)
    PAGE.write_text(page)
    print(f"written: {PAGE}, {PICTURE}, {DATA}")


if __name__ == "__main__":
    main()
