"""`onceproof schema` against a real Postgres, as an operator or an init container runs it."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import asyncpg
import pytest
from typer.testing import CliRunner, Result

from onceproof.cli.app import build
from onceproof.errors import SchemaBehindError
from onceproof.postgres import check, create_engine, upgrade

ALL = ("onceproof", "producer", "consumer", "provider")


def schema(*arguments: str) -> Result:
    return CliRunner().invoke(build(), ["schema", *arguments])


def sql(url: str, statement: str) -> list[Any]:
    async def run() -> list[Any]:
        connection = await asyncpg.connect(url)
        try:
            return list(await connection.fetch(statement))
        finally:
            await connection.close()

    return asyncio.run(run())


def test_list_shows_what_is_installed() -> None:
    result = schema("list", "--json")
    assert result.exit_code == 0
    assert sorted(json.loads(result.stdout)) == sorted(ALL)
    assert schema("list").stdout.split() == sorted(ALL)


def test_check_upgrade_check(empty_database_url: str) -> None:
    before = schema("check", *ALL, "--database-url", empty_database_url)
    assert before.exit_code == 1
    assert "at revision none" in before.stderr
    assert "run: onceproof schema upgrade onceproof" in before.stderr
    for _ in range(2):
        upgraded = schema("upgrade", *ALL, "--json", "--database-url", empty_database_url)
        assert upgraded.exit_code == 0, upgraded.output
        assert set(json.loads(upgraded.stdout)) == set(ALL)
    after = schema("check", *ALL, "--json", "--database-url", empty_database_url)
    assert after.exit_code == 0
    assert json.loads(after.stdout) == {"ok": True}
    tables = sql(empty_database_url, "SELECT table_name FROM information_schema.tables")
    assert {"orders", "charges", "captures", "outbox", "inbox"} <= {row[0] for row in tables}


def test_the_library_alone_is_the_default(
    empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONCEPROOF_DATABASE_URL", empty_database_url)
    result = schema("upgrade")
    assert result.exit_code == 0
    assert result.stdout.startswith("onceproof: at revision 0")
    assert schema("check").exit_code == 0
    assert schema("check", "consumer").exit_code == 1


def test_two_upgrades_at_once(empty_database_url: str) -> None:
    start = threading.Barrier(2)
    failures: list[BaseException] = []

    def run() -> None:
        start.wait()
        try:
            asyncio.run(upgrade(empty_database_url, *ALL))
        except BaseException as error:  # noqa: BLE001 - whatever it is, the test must see it
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    assert schema("check", *ALL, "--database-url", empty_database_url).exit_code == 0


def test_a_schema_that_is_ahead_serves_the_old_code_during_a_roll_out(
    empty_database_url: str,
) -> None:
    schema("upgrade", "--database-url", empty_database_url)
    sql(empty_database_url, "UPDATE onceproof_schema_version SET version_num = '9999'")
    assert schema("check", "--database-url", empty_database_url).exit_code == 0
    again = schema("upgrade", "--json", "--database-url", empty_database_url)
    assert again.exit_code == 0, again.output
    assert json.loads(again.stdout) == {"onceproof": "9999"}


def test_a_service_of_newer_code_refuses_an_older_schema(empty_database_url: str) -> None:
    schema("upgrade", "--database-url", empty_database_url)
    sql(empty_database_url, "UPDATE onceproof_schema_version SET version_num = '0000'")

    async def ask() -> None:
        engine = create_engine(empty_database_url, application_name="test-schema")
        try:
            await check(engine, "onceproof")
        finally:
            await engine.dispose()

    with pytest.raises(SchemaBehindError, match="at revision 0000, this code needs 0"):
        asyncio.run(ask())


@pytest.mark.parametrize("command", ["upgrade", "check"])
@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("not a url", "cannot be parsed"),
        ("", "cannot be parsed"),
        ("mysql://u:s3cret@h/db", "only postgresql"),
        ("postgresql://u:s3cret@h:port/db", "cannot be parsed"),
        ("postgresql://u:s3cret@h:99999/db", "no valid port"),
        ("postgresql://u:s3cret@h/db?sslmod=require", "sslmod"),
        ("postgresql://u:s3cret@127.0.0.1:1/db", "database unavailable"),
        ("postgresql://u:s3cret@127.0.0.1:1/db?sslmode=disable", "database unavailable"),
        ("postgresql://u:s3cret@nowhere.invalid/db", "database unavailable"),
    ],
)
def test_a_database_that_cannot_be_used_is_a_clear_error(
    command: str, url: str, words: str
) -> None:
    result = schema(command, "--database-url", url)
    assert result.exit_code == 2, result.output
    assert words in result.output
    assert "s3cret" not in result.output
    assert "Traceback" not in result.output


def test_a_database_that_does_not_exist_is_a_clear_error(empty_database_url: str) -> None:
    url = empty_database_url.replace("onceproof_test", "absent", 1)
    result = schema("check", "--database-url", url)
    assert result.exit_code == 2, result.output
    assert "does not exist" in result.output


def test_an_unknown_component_is_named(empty_database_url: str) -> None:
    result = schema("upgrade", "konsumer", "--database-url", empty_database_url)
    assert result.exit_code == 2
    assert "'konsumer'" in result.output
    assert "known: consumer, onceproof" in result.output


def test_no_url_is_a_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ONCEPROOF_DATABASE_URL", raising=False)
    result = schema("check")
    assert result.exit_code == 2
    assert "--database-url" in result.output
