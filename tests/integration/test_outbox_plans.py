"""The relay's statements find their rows by the same index, whatever the statistics say.

A plan is made once and kept. A relay that came up while nothing was pending, which is how most do, must
not have one that walks all pending rows for each, when a hundred thousand are committed at once.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

import asyncpg
import pytest
from sqlalchemy.engine import make_url

from onceproof.outbox import statements

_ROWS: Final = """
    INSERT INTO onceproof.outbox (id, destination, key, type, payload)
    SELECT 'e-' || n, 'orders', 'k-' || n, 't', '{}' FROM generate_series(1, 5000) AS n
"""
_CALLS: Final = {
    "CLAIM": ("float8, text, bigint, bigint, bigint, int", "30, 'r', 0, 0, 10000, 100"),
    "CLAIM_THESE": ("float8, text, bigint, bigint[]", "30, 'r', 0, ARRAY[1]"),
    "MARK": (
        "text[], bigint[], int[], text[], text[], float8[]",
        "ARRAY['a'], ARRAY[1], ARRAY[1], ARRAY['m'], ARRAY[NULL], ARRAY[0]",
    ),
    "BEHIND": ("text[], text[], bigint[]", "ARRAY['a'], ARRAY['d'], ARRAY[1]"),
}

State = Callable[[asyncpg.Connection], Awaitable[None]]


async def new(_raw: asyncpg.Connection) -> None:
    """Nothing was ever in the table, and nobody looked."""


async def empty(raw: asyncpg.Connection) -> None:
    await raw.execute("VACUUM ANALYZE onceproof.outbox")


async def pending(raw: asyncpg.Connection) -> None:
    await raw.execute(_ROWS)
    await raw.execute("ANALYZE onceproof.outbox")


async def one_key(raw: asyncpg.Connection) -> None:
    await raw.execute(_ROWS)
    await raw.execute("UPDATE onceproof.outbox SET key = 'hot'")
    await raw.execute("ANALYZE onceproof.outbox")


async def all_published(raw: asyncpg.Connection) -> None:
    await raw.execute(_ROWS)
    await raw.execute("UPDATE onceproof.outbox SET published_at = now()")
    await raw.execute("VACUUM ANALYZE onceproof.outbox")


@pytest.fixture
async def raw(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    plain = make_url(database_url).set(drivername="postgresql")
    connection = await asyncpg.connect(plain.render_as_string(hide_password=False))
    yield connection
    await connection.close()


async def plan(raw: asyncpg.Connection, name: str, statement: str) -> str:
    types, values = _CALLS[name]
    for setting in statements.SESSION:
        await raw.execute(setting)
    await raw.execute(f"PREPARE looked_at ({types}) AS {statement}")
    rows = await raw.fetch(f"EXPLAIN (COSTS off) EXECUTE looked_at ({values})")
    await raw.execute("DEALLOCATE looked_at")
    return "\n".join(row[0] for row in rows)


@pytest.mark.parametrize("state", [new, empty, pending, one_key, all_published])
@pytest.mark.parametrize("name", _CALLS)
async def test_the_next_row_of_a_key_is_found_by_key(
    raw: asyncpg.Connection, state: State, name: str
) -> None:
    await state(raw)
    found = await plan(raw, name, getattr(statements, name))
    by_key = "head" if name.startswith("CLAIM") else "o"
    assert f"using outbox_pending_key on outbox {by_key}\n" in found, found
    assert "Seq Scan" not in found
    assert "Sort" not in found


@pytest.mark.parametrize("state", [new, empty, pending, one_key, all_published])
async def test_a_mark_looks_at_no_more_rows_than_it_was_given(
    raw: asyncpg.Connection, state: State
) -> None:
    await state(raw)
    found = await plan(raw, "MARK", statements.MARK)
    assert re.search(
        r"Index Scan using \w+ on outbox o_1\n\s+Index Cond: \(seq = ANY \(\$2\)\)", found
    ), found


async def test_an_equality_of_keys_would_not_do(raw: asyncpg.Connection) -> None:
    """The control: what a plan looks like that these tests must refuse."""
    await all_published(raw)
    naive = statements.BEHIND.replace(
        "(o.key, o.seq) > (sent.key, sent.seq) AND o.key <= sent.key",
        "o.key = sent.key AND o.seq > sent.seq",
    )
    assert naive != statements.BEHIND
    assert "using outbox_pending on outbox o" in await plan(raw, "BEHIND", naive)
