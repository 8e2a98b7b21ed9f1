"""The run folder: everything that a run left behind, enough to judge it again from files alone.

A verdict that nobody can recompute is a claim. So `verify` and `report` read only this folder, and
a folder with a missing or corrupt file says so instead of giving a verdict on half of the evidence.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from onceproof_chaos import jsonl
from onceproof_chaos.checker import check
from onceproof_chaos.evidence import Evidence
from onceproof_chaos.faultlog import FaultEvent
from onceproof_chaos.history import History
from onceproof_chaos.jsonl import RunFolderError
from onceproof_chaos.plan import Plan
from onceproof_chaos.spans import Span, SpansSummary, read_spans, summarise
from onceproof_chaos.verdict import Verdict

__all__ = ["LATEST", "RunFolder", "RunFolderError", "RunInfo", "point_latest"]

LATEST: Final = "latest"

_Parsed = TypeVar("_Parsed")


class RunInfo(BaseModel):
    """`run.json`: how the run was made. Times are Unix seconds, durations seconds.

    Attributes:
        seed: of workload and plan.
        variant: naive, hardened or an ablation.
        fixes: fix name to switch.
        orders: size of the workload.
        settings: what was configured, without secrets.
        versions: of Python, Postgres and the packages.
        command: the command line that repeats the run.
        started_at: start of the load.
        ended_at: end of the drain.
        duration_s: of the whole run.
        drained: whether queues and outbox were empty at the end.
        drain_reason: why they were not.
    """

    model_config = ConfigDict(frozen=True)

    seed: int
    variant: str
    fixes: dict[str, bool]
    orders: int
    settings: dict[str, Any] = {}
    versions: dict[str, str] = {}
    command: str = ""
    started_at: float
    ended_at: float | None = None
    duration_s: float | None = None
    drained: bool = False
    drain_reason: str | None = None


@dataclass(frozen=True, slots=True)
class RunFolder:
    """One run folder. Reading raises `RunFolderError` with the file's name."""

    path: Path

    @classmethod
    def create(cls, root: Path, variant: str, seed: int) -> RunFolder:
        """Make `<root>/<UTC time>-<variant>-s<seed>` and point `<root>/latest` to it."""
        stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
        name = f"{stamp}-{variant}-s{seed}"
        root.mkdir(parents=True, exist_ok=True)
        path = _make(root, name)
        (path / "evidence").mkdir()
        (path / "logs").mkdir()
        point_latest(root, path.name)
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """Open a folder that a finished run left; `path` may be the `latest` link.

        Raises:
            RunFolderError: it is no run folder, or one of its files is missing.
        """
        if not path.exists():
            raise RunFolderError(f"{path} does not exist")
        if not path.is_dir() or not (path / "run.json").is_file():
            raise RunFolderError(f"{path} is not a run folder: it has no run.json")
        run = cls(path.resolve())
        missing = [str(f.relative_to(run.path)) for f in run._required() if not f.is_file()]
        if missing:
            raise RunFolderError(f"{path} is incomplete: {', '.join(missing)} missing")
        return run

    @property
    def logs(self) -> Path:
        """Folder of the services' logs."""
        return self.path / "logs"

    @property
    def evidence_dir(self) -> Path:
        """Folder of the dumped tables; `evidence.collect` writes here."""
        return self.path / "evidence"

    @property
    def history_path(self) -> Path:
        """`history.jsonl`, for a `HistoryWriter`."""
        return self.path / "history.jsonl"

    @property
    def faults_path(self) -> Path:
        """`faults.jsonl`, for a `jsonl.Appender` of `FaultEvent.as_json()`."""
        return self.path / "faults.jsonl"

    @property
    def spans_path(self) -> Path:
        """`spans.jsonl`, which all services append to."""
        return self.path / "spans.jsonl"

    @property
    def report_path(self) -> Path:
        """`report.html`."""
        return self.path / "report.html"

    def write_info(self, info: RunInfo) -> None:
        """Write `run.json` atomically; again at the end with what is known by then."""
        jsonl.write_atomic(self.path / "run.json", info.model_dump_json(indent=2) + "\n")

    def info(self) -> RunInfo:
        """Read `run.json`."""
        path = self.path / "run.json"
        try:
            return RunInfo.model_validate(jsonl.read_document(path))
        except ValidationError as error:
            raise RunFolderError(f"{path}: {_first(error)}") from None

    def write_plan(self, plan: Plan) -> None:
        """Write `plan.json` atomically."""
        self._write("plan.json", plan.as_json())

    def plan(self) -> Plan:
        """Read `plan.json`."""
        return self._parse("plan.json", Plan.from_json)

    def history(self) -> History:
        """Read `history.jsonl`."""
        return History.load(self.history_path)

    def faults(self) -> list[FaultEvent]:
        """Read `faults.jsonl`."""
        return list(jsonl.read(self.faults_path, FaultEvent.from_json))

    def evidence(self) -> Evidence:
        """Read `evidence/*.jsonl`."""
        return Evidence.load(self.evidence_dir)

    def queries(self) -> str:
        """Read `evidence/queries.sql`."""
        path = self.evidence_dir / "queries.sql"
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RunFolderError(f"{path} cannot be read: {error}") from None

    def spans(self) -> Iterator[Span]:
        """Read `spans.jsonl`."""
        return read_spans(self.spans_path)

    def spans_summary(self) -> SpansSummary:
        """Deliveries, redeliveries and dedup hits from `spans.jsonl`."""
        return summarise(self.spans())

    def judge(self) -> Verdict:
        """Compute the verdict from the files; nothing is written."""
        info = self.info()
        return check(
            history=self.history(),
            evidence=self.evidence(),
            plan=self.plan(),
            faults=self.faults(),
            spans=self.spans_summary(),
            drained=info.drained,
            drain_reason=info.drain_reason,
        )

    def write_verdict(self, verdict: Verdict) -> None:
        """Write `verdict.json` atomically."""
        self._write("verdict.json", verdict.as_json())

    def verdict(self) -> Verdict:
        """Read `verdict.json`."""
        return self._parse("verdict.json", Verdict.from_json)

    def _required(self) -> Iterator[Path]:
        yield from (self.path / name for name in ("plan.json", "history.jsonl", "faults.jsonl"))
        yield self.spans_path
        yield self.evidence_dir / "queries.sql"
        yield from (self.evidence_dir / f"{table}.jsonl" for table in Evidence.__slots__)

    def _write(self, name: str, document: Mapping[str, Any]) -> None:
        text = json.dumps(document, indent=2, ensure_ascii=False)
        jsonl.write_atomic(self.path / name, text + "\n")

    def _parse(self, name: str, parse: Callable[[Mapping[str, Any]], _Parsed]) -> _Parsed:
        path = self.path / name
        try:
            return parse(jsonl.read_document(path))
        except RunFolderError:
            raise
        except KeyError as error:
            raise RunFolderError(f"{path}: missing field {error}") from None
        except (ValueError, TypeError, AttributeError) as error:
            raise RunFolderError(f"{path}: {error}") from None


def _make(root: Path, name: str) -> Path:
    """A new folder; runs that start within one second get a number."""
    for number in itertools.count(1):
        path = root / (name if number == 1 else f"{name}-{number}")
        try:
            path.mkdir()
        except FileExistsError:
            continue
        return path
    raise AssertionError("itertools.count never ends")


def point_latest(root: Path, name: str) -> None:
    """Point `<root>/latest` to the run folder `name`.

    Raises:
        RunFolderError: something else is called so.
    """
    link = root / LATEST
    if link.exists() and not link.is_symlink():
        raise RunFolderError(f"{link} is in the way: it is not a symbolic link")
    # A rename replaces the link in one step; a reader never finds it missing.
    temporary = root / f".{LATEST}-{os.getpid()}"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(name, target_is_directory=True)
    temporary.replace(link)


def _first(error: ValidationError) -> str:
    problem = error.errors()[0]
    return f"{'.'.join(str(part) for part in problem['loc'])}: {problem['msg']}"
