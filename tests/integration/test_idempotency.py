"""Claim, store and expiry on a real Postgres, where the locks are."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from onceproof.errors import DatabaseUnavailableError
from onceproof.idempotency import (
    KeyInProgressError,
    KeyReusedError,
    StoredResponse,
    claim,
    delete_expired,
    fingerprint,
    store,
)
from onceproof.postgres import create_engine

SCOPE = "POST /things"
PRINT = fingerprint("POST", "/things", b"{}")
RESPONSE = StoredResponse(201, b'\x00\xff{"a": 1}', {"Location": "/things/1", "X-Umlaut": "\xfc"})


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(database_url, application_name="test-idempotency")
    yield engine
    await engine.dispose()


@pytest.fixture
def key() -> str:
    return uuid.uuid4().hex


async def _answer(engine: AsyncEngine, key: str, scope: str = SCOPE) -> None:
    async with AsyncSession(engine) as session:
        assert await claim(session, scope, key, PRINT) is None
        await store(session, scope, key, PRINT, RESPONSE)
        await session.commit()


async def test_a_repeated_request_gets_the_stored_response(engine: AsyncEngine, key: str) -> None:
    await _answer(engine, key)

    async with AsyncSession(engine) as session:
        assert await claim(session, SCOPE, key, PRINT) == RESPONSE


async def test_a_key_is_reused_for_another_request(engine: AsyncEngine, key: str) -> None:
    await _answer(engine, key)

    async with AsyncSession(engine) as session:
        with pytest.raises(KeyReusedError):
            await claim(session, SCOPE, key, fingerprint("POST", "/things", b"[]"))


async def test_scopes_do_not_share_keys(engine: AsyncEngine, key: str) -> None:
    await _answer(engine, key)
    await _answer(engine, key, scope="POST /other-things")


async def test_a_key_is_in_progress_until_its_transaction_ends(
    engine: AsyncEngine, key: str
) -> None:
    async with AsyncSession(engine) as first, AsyncSession(engine) as second:
        assert await claim(first, SCOPE, key, PRINT) is None
        with pytest.raises(KeyInProgressError):
            await claim(second, SCOPE, key, PRINT)
        await second.rollback()

        await store(first, SCOPE, key, PRINT, RESPONSE)
        await first.commit()
        assert await claim(second, SCOPE, key, PRINT) == RESPONSE


async def test_a_rollback_leaves_the_key_free(engine: AsyncEngine, key: str) -> None:
    async with AsyncSession(engine) as session:
        assert await claim(session, SCOPE, key, PRINT) is None
        await store(session, SCOPE, key, PRINT, RESPONSE)
        await session.rollback()

    await _answer(engine, key)


async def test_a_lost_connection_leaves_the_key_free(engine: AsyncEngine, key: str) -> None:
    async with AsyncSession(engine) as crashed:
        assert await claim(crashed, SCOPE, key, PRINT) is None
        await store(crashed, SCOPE, key, PRINT, RESPONSE)
        pid = await crashed.scalar(text("SELECT pg_backend_pid()"))
        async with engine.connect() as killer:
            # With a timeout in ms the function returns only when the backend is gone.
            assert await killer.scalar(
                text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid}
            )
        with pytest.raises(DatabaseUnavailableError):
            await claim(crashed, SCOPE, "another", PRINT)

    await _answer(engine, key)


async def test_only_a_claimed_key_can_be_answered(engine: AsyncEngine, key: str) -> None:
    await _answer(engine, key)

    async with AsyncSession(engine) as session:
        with pytest.raises(KeyInProgressError):
            await store(session, SCOPE, key, PRINT, RESPONSE)


async def test_only_expired_responses_are_deleted(engine: AsyncEngine) -> None:
    scope = f"expiry {uuid.uuid4().hex}"
    for number in range(7):
        await _answer(engine, f"old-{number}", scope)
    await _answer(engine, "new", scope)
    async with engine.begin() as connection:
        await connection.execute(
            text(
                "UPDATE onceproof.idempotency_keys SET created_at = now() - interval '25 hours' "
                "WHERE scope = :scope AND key LIKE 'old-%'"
            ),
            {"scope": scope},
        )

    assert await delete_expired(engine, timedelta(hours=24), batch_size=3) >= 7

    async with engine.connect() as connection:
        left = await connection.scalars(
            text("SELECT key FROM onceproof.idempotency_keys WHERE scope = :scope"),
            {"scope": scope},
        )
        assert left.all() == ["new"]


async def test_expiry_passes_rows_that_somebody_else_deletes(engine: AsyncEngine) -> None:
    scope = f"expiry {uuid.uuid4().hex}"
    await _answer(engine, "locked", scope)
    async with engine.connect() as other:
        await other.execute(
            text("SELECT 1 FROM onceproof.idempotency_keys WHERE scope = :scope FOR UPDATE"),
            {"scope": scope},
        )
        await delete_expired(engine, timedelta(0))
        await other.rollback()

    async with AsyncSession(engine) as session:
        assert await claim(session, scope, "locked", PRINT) == RESPONSE
