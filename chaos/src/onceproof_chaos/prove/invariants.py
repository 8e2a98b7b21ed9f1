"""Invariants: SQL that finds what must not be. Whoever owns the tables writes it; nobody else can know.

A query gives the rows that violate, so any row is a breach and the rows are the evidence. A query that
counts gives one number in a column called `count` (what Postgres calls `count(*)`) or `violations`. By
the name and not by the type: a violating row may well be a single number, and must not be taken for
"none". For the same reason only a query without a GROUP BY of its own counts: one group that violates
is one row, in which `count` may well be 0.

`prove.published` holds every event that was published (event_id, key, type, data), so an invariant can
speak of what must be there: exactly one row for each, not merely at most one.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import asyncpg

from onceproof.errors import ConfigurationError
from onceproof_chaos.environment import asyncpg_url

_NAMED: Final = re.compile(
    r"\s*([A-Za-z_][\w.-]*)\s*=\s*(?=(?:--[^\n]*\n\s*)*(?:select|with)\b)", re.IGNORECASE
)
_HEADING: Final = re.compile(r"^--[ \t]*name:[ \t]*(\S+)[ \t]*$", re.MULTILINE)
_NO_CODE: Final = re.compile(r"""--[^\n]*|/\*.*?\*/|'(?:[^']|'')*'|"(?:[^"]|"")*\"""", re.DOTALL)
"""What looks like SQL and is none: comments, strings, quoted names."""
_COMMENT: Final = re.compile(r"--[^\n]*|/\*.*?\*/", re.DOTALL)
_INNERMOST: Final = re.compile(r"\([^()]*\)")
_GROUPS: Final = re.compile(r"\bgroup\s+by\b", re.IGNORECASE)
_COUNTS: Final = frozenset({"count", "violations"})
_TIMEOUT_S: Final = 30.0
MAX_ROWS: Final = 20
"""Rows that are kept of a breach."""


@dataclass(frozen=True, slots=True)
class Invariant:
    """A query that must find nothing.

    Raises:
        ValueError: it is empty; Postgres would find nothing, whatever happened.
    """

    name: str
    sql: str

    def __post_init__(self) -> None:
        if not _COMMENT.sub("", self.sql).strip(" \t\r\n;"):
            raise ValueError(f"invariant {self.name!r} is empty")


@dataclass(frozen=True, slots=True)
class Violation:
    """What a query found: how many, and the first `MAX_ROWS` rows as JSON."""

    invariant: str
    count: int
    rows: tuple[dict[str, Any], ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self) | {"rows": list(self.rows)}


def parse(texts: Iterable[str], folder: Path = Path()) -> tuple[Invariant, ...]:
    """Invariants from a command line.

    Args:
        texts: each one `SELECT ...`, or `name=SELECT ...`, or `@file.sql`, where each query of the
            file stands below a line `-- name: its_name`.
        folder: that names of files are relative to.

    Raises:
        ValueError: there is none, a file cannot be read or has a query without name beside named
            ones, or two have one name.
    """
    found: list[Invariant] = []
    for text in texts:
        if text.startswith("@"):
            found += _of_file(folder / text[1:])
        elif named := _NAMED.match(text):
            found.append(Invariant(named[1], text[named.end() :].strip()))
        else:
            found.append(Invariant(f"invariant {len(found) + 1}", text.strip()))
    if not found:
        raise ValueError("an invariant is needed: SQL that finds what must not be")
    names = [invariant.name for invariant in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"two invariants are called {', '.join(twice)}")
    return tuple(found)


async def evaluate(database_url: str, invariants: Sequence[Invariant]) -> tuple[Violation, ...]:
    """What the invariants find now, in one snapshot; empty when all hold.

    Raises:
        ConfigurationError: a query is wrong; the message has its name and what Postgres says.
    """
    connection = await asyncpg.connect(asyncpg_url(database_url), command_timeout=_TIMEOUT_S)
    try:
        violations = []
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            for invariant in invariants:
                try:
                    rows = [dict(row) for row in await connection.fetch(invariant.sql)]
                except (asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError) as error:
                    reason = str(error) or f"no answer within {_TIMEOUT_S:.0f} s"
                    raise ConfigurationError(f"invariant {invariant.name!r}: {reason}") from error
                count = _count(invariant.sql, rows)
                if count:
                    kept = tuple(_plain(row) for row in rows[:MAX_ROWS])
                    violations.append(Violation(invariant.name, count, kept))
        return tuple(violations)
    finally:
        await connection.close()


def _of_file(path: Path) -> list[Invariant]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"the invariants of {path} cannot be read: {error}") from None
    before, *rest = _HEADING.split(text)
    if not rest:
        return [Invariant(path.stem, before.strip().removesuffix(";"))]
    if _COMMENT.sub("", before).strip():
        raise ValueError(f"in {path}, a query stands above the first line `-- name: its_name`")
    pairs = zip(rest[::2], rest[1::2], strict=True)
    return [Invariant(name, sql.strip().removesuffix(";")) for name, sql in pairs]


def _count(sql: str, rows: Sequence[dict[str, Any]]) -> int:
    if len(rows) == 1 and len(rows[0]) == 1 and not _has_groups(sql):
        ((name, value),) = rows[0].items()
        # A sum of whole numbers is a Decimal.
        if name in _COUNTS and isinstance(value, int | Decimal) and not isinstance(value, bool):
            return math.ceil(abs(Decimal(value)))
    return len(rows)


def _has_groups(sql: str) -> bool:
    """Whether a query groups its own rows, and not only those of a query within."""
    code, nested = _NO_CODE.sub(" ", sql), 1
    while nested:
        code, nested = _INNERMOST.subn(" ", code)
    return bool(_GROUPS.search(code))


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(json.dumps(row, default=str))
    return document


__all__ = ["MAX_ROWS", "Invariant", "Violation", "evaluate", "parse"]
