"""What was measured, one line a cell, written when the cell ends: an aborted ablation can go on.

Only measurements are stored. Whether they agree with the theory is computed when they are read, so
that a theory which is corrected judges the old measurements anew.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Self

from onceproof_chaos import jsonl
from onceproof_chaos.ablation.basis import OVER_SQS, Basis
from onceproof_chaos.ablation.faults import VISIBILITY_S
from onceproof_chaos.jsonl import RunFolderError
from onceproof_chaos.verdict import BreachKind

MAX_ATTEMPTS: Final = 2
"""An inconclusive cell is repeated once."""
_SETTINGS: Final = "ablation.json"
_RESULTS: Final = "results.jsonl"


@dataclass(frozen=True, slots=True, order=True)
class Cell:
    """One measurement: a seed, a variant, a fault."""

    seed: int
    variant: str
    fault: str

    def __str__(self) -> str:
        return f"s{self.seed}-{self.variant}-{self.fault}"


@dataclass(frozen=True, slots=True)
class CellResult:
    """What was measured in one cell.

    Args:
        cell: which one.
        attempt: 1, or 2 for the repetition of an inconclusive one.
        orders: orders that were placed.
        struck: orders that met the fault.
        breaches: order ids by kind of breach; kinds without any are left out.
        redeliveries: deliveries beyond the first of each event.
        deduplicated: deliveries that the inbox absorbed.
        reasons: why the cell proves less than it was meant to; empty when it is conclusive.
        error: whether it could not be carried out at all, so that trying again is worth it.
        seconds: how long it took.
        run: its run folder, relative to that of the ablation; empty where there is none.
    """

    cell: Cell
    attempt: int
    orders: int = 0
    struck: tuple[str, ...] = ()
    breaches: Mapping[BreachKind, tuple[str, ...]] = field(default_factory=dict)
    redeliveries: int = 0
    deduplicated: int = 0
    reasons: tuple[str, ...] = ()
    error: bool = False
    seconds: float = 0.0
    run: str = ""

    @property
    def final(self) -> bool:
        """Whether the cell need not be measured again."""
        return not self.reasons or (self.attempt >= MAX_ATTEMPTS and not self.error)

    def as_json(self) -> dict[str, Any]:
        """Plain JSON types, the cell's fields first."""
        document = asdict(self)
        del document["cell"]
        return asdict(self.cell) | document

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """What `as_json` gave.

        Raises:
            ValueError, KeyError, TypeError: it is not a result.
        """
        values = {name: document[name] for name in cls.__slots__ if name != "cell"}
        values["struck"] = tuple(values["struck"])
        values["reasons"] = tuple(values["reasons"])
        values["breaches"] = {
            BreachKind(kind): tuple(orders) for kind, orders in values["breaches"].items()
        }
        return cls(cell=Cell(document["seed"], document["variant"], document["fault"]), **values)


@dataclass(frozen=True, slots=True)
class AblationFolder:
    """An ablation's folder: its settings, its results, and the run folder of every cell.

    Args:
        path: of the folder.
        orders: orders of each cell.
        versions: of what it was made with.
        started_at: Unix time in seconds.
        visibility_s: visibility timeout of each cell.
        basis: the broker of each cell.
    """

    path: Path
    orders: int
    versions: Mapping[str, str]
    started_at: float
    visibility_s: float = VISIBILITY_S
    basis: Basis = OVER_SQS

    @classmethod
    def create(cls, root: Path, *, orders: int, versions: Mapping[str, str], basis: Basis) -> Self:
        """Make `<root>/<UTC time>-ablation`.

        Raises:
            RunFolderError: it is there already, or cannot be made.
        """
        now = datetime.now(UTC)
        path = root / f"{now.strftime('%Y%m%d-%H%M%S')}-ablation"
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            raise RunFolderError(f"{path} exists already; try again in a second") from None
        except OSError as error:
            raise RunFolderError(f"{path} cannot be made: {error}") from None
        folder = cls(path, orders, dict(versions), now.timestamp(), basis=basis)
        document = {
            "orders": orders,
            "visibility_s": folder.visibility_s,
            "versions": folder.versions,
            "started_at": folder.started_at,
            **basis.as_json(),
        }
        jsonl.write_atomic(path / _SETTINGS, json.dumps(document, indent=2) + "\n")
        (path / _RESULTS).touch()
        return folder

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open a folder that `create` made; half a line that was being written at a kill is removed.

        Raises:
            RunFolderError: it is no folder of an ablation.
        """
        document = jsonl.read_document(path / _SETTINGS)
        _mend(path / _RESULTS)
        try:
            return cls(
                path,
                int(document["orders"]),
                {str(name): str(text) for name, text in document["versions"].items()},
                float(document["started_at"]),
                float(document["visibility_s"]),
                Basis.from_json(document),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise RunFolderError(f"{path / _SETTINGS}: {error!r}") from None

    @property
    def cells(self) -> Path:
        """Folder of the cells' run folders."""
        return self.path / "cells"

    def results(self) -> dict[Cell, list[CellResult]]:
        """Every measurement, in sequence, by cell.

        Raises:
            RunFolderError: a line cannot be read.
        """
        found: dict[Cell, list[CellResult]] = {}
        for result in jsonl.read(self.path / _RESULTS, CellResult.from_json):
            found.setdefault(result.cell, []).append(result)
        return found

    def appender(self) -> jsonl.Appender:
        """For results that are measured now."""
        return jsonl.Appender(self.path / _RESULTS)


def _mend(path: Path) -> None:
    """Cut off a last line without an end, or the next result would be written into it."""
    try:
        content = path.read_bytes()
        if content and not content.endswith(b"\n"):
            path.write_bytes(content[: content.rfind(b"\n") + 1])
    except OSError as error:
        raise RunFolderError(f"{path} cannot be read: {error}") from None


__all__ = ["MAX_ATTEMPTS", "AblationFolder", "Cell", "CellResult"]
