"""The end-to-end tests: the chart in kind, each crash asserted from both ledgers and the traces.

`make e2e` runs them; they are not among the default tests. One namespace for a run.
"""

from __future__ import annotations

import json
import secrets
import signal
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

# Its helpers are modules beside it, and pytest imports tests by path.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.e2e import evidence
from tests.e2e.drills import Finished, carry_out, unix
from tests.e2e.expectations import VARIANTS
from tests.e2e.installation import ROOT, Installation, image_tag, installed, namespace

_FOLDER = pytest.StashKey[Path]()
_INSTALLATION = pytest.StashKey[Installation]()
_TIMINGS = pytest.StashKey[list[dict[str, object]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("e2e", "onceproof in kind")
    group.addoption("--variant", default="hardened", choices=VARIANTS, help="what to install")
    group.addoption("--broker", default="sqs", choices=("sqs", "kafka"), help="what it runs over")
    group.addoption(
        "--relay", default="polling", choices=("polling", "cdc"), help="what sends the outbox"
    )
    group.addoption("--context", default="kind-onceproof", help="context of the kubeconfig")
    group.addoption(
        "--keep-namespace", action="store_true", help="leave the installation for looking at"
    )


def pytest_configure(config: pytest.Config) -> None:
    started = time.strftime("%Y%m%d-%H%M%S")
    config.stash[_FOLDER] = ROOT / f"runs/e2e-{config.getoption('--variant')}-{started}"
    config.stash[_TIMINGS] = []
    # A run that is cancelled, by whatever signal, takes its namespace down too.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.default_int_handler)


@pytest.fixture(scope="session")
def runs(pytestconfig: pytest.Config) -> Path:
    """Where everything of this run is kept."""
    folder = pytestconfig.stash[_FOLDER]
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def variant(pytestconfig: pytest.Config) -> str:
    return str(pytestconfig.getoption("--variant"))


@pytest.fixture(scope="session")
def relay(pytestconfig: pytest.Config) -> str:
    return str(pytestconfig.getoption("--relay"))


@pytest.fixture(scope="session")
def context(pytestconfig: pytest.Config) -> str:
    return str(pytestconfig.getoption("--context"))


@pytest.fixture(scope="session")
def installation(pytestconfig: pytest.Config, variant: str, context: str) -> Iterator[Installation]:
    """The chart in a namespace of this run."""
    name = f"e2e-{variant.replace('_', '-')}-{secrets.token_hex(3)}"
    broker, relay = (str(pytestconfig.getoption(option)) for option in ("--broker", "--relay"))
    keep = bool(pytestconfig.getoption("--keep-namespace"))
    with (
        namespace(context, name, keep=keep) as cluster,
        installed(cluster, variant, image_tag(), broker, relay) as made,
    ):
        pytestconfig.stash[_INSTALLATION] = made
        yield made


@pytest.fixture
def settled(installation: Installation) -> Installation:
    """The installation, with every pod ready."""
    installation.settled()
    return installation


@pytest.fixture(scope="session")
def drills(pytestconfig: pytest.Config, installation: Installation) -> Drills:
    return Drills(installation, pytestconfig.stash[_TIMINGS])


class Drills:
    """Drills of this run: each is carried out once, whoever asks for it first."""

    def __init__(self, installation: Installation, timings: list[dict[str, object]]) -> None:
        self._installation = installation
        self._timings = timings
        self._finished: dict[tuple[str, str], Finished] = {}

    def __call__(self, point: str, action: str) -> Finished:
        key = (point, action)
        if key not in self._finished:
            finished = self._finished[key] = carry_out(self._installation, point, action)
            self._timings.append(_timing(point, action, finished))
        return self._finished[key]


def _timing(point: str, action: str, finished: Finished) -> dict[str, object]:
    status = finished.status
    killed, handled = status.get("killedAt"), status.get("redeliveredAt")
    gone = status.get("pod", {}).get("goneAt")
    return {
        "point": point,
        "action": action,
        "verdict": status.get("verdict"),
        "took_s": round(finished.took_s, 1),
        "client_attempts": finished.placed.attempts,
        "dead_after_s": round(unix(gone) - unix(killed), 2) if gone and killed else None,
        "handled_again_after_s": (
            round(unix(handled) - unix(killed), 2) if killed and handled else None
        ),
    }


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):
    report: pytest.TestReport = yield
    installation = item.config.stash.get(_INSTALLATION, None)
    if report.failed and installation is not None and call.when in {"setup", "call"}:
        folder = item.config.stash[_FOLDER] / evidence.folder_name(item.name)
        evidence.save(installation, folder, call.start)
        report.sections.append(("evidence", str(folder)))
    return report


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    timings = config.stash[_TIMINGS]
    if not timings:
        return
    folder = config.stash[_FOLDER]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "drills.json").write_text(json.dumps(timings, indent=1))
    again = sorted(
        float(str(row["handled_again_after_s"]))
        for row in timings
        if row["handled_again_after_s"] is not None
    )
    terminalreporter.section(f"drills: {folder / 'drills.json'}")
    for row in timings:
        terminalreporter.write_line("  ".join(f"{value!s:>22}" for value in row.values()))
    if again:
        terminalreporter.write_line(
            f"from pod deletion to handled again: median {statistics.median(again):.1f} s, "
            f"maximum {again[-1]:.1f} s, of {len(again)}"
        )
