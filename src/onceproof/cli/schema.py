"""`onceproof schema`: create, upgrade and check the tables."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from typing import Annotated, Any, Final, TypeVar

import typer
from rich.console import Console
from rich.markup import escape

from onceproof.errors import OnceproofError, SchemaBehindError
from onceproof.postgres import check, components, create_engine, upgrade

schema_app = typer.Typer(
    help="Create, upgrade and check the database schema.", no_args_is_help=True
)

DatabaseUrl = Annotated[
    str,
    typer.Option(
        "--database-url",
        envvar="ONCEPROOF_DATABASE_URL",
        help="postgresql://user:password@host:5432/name",
        show_default=False,
    ),
]
Names = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[COMPONENT]...",
        help="Components, as `onceproof schema list` shows them. Default: onceproof, the library's own.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]

_LIBRARY: Final = ("onceproof",)
_errors: Final = Console(stderr=True)
T = TypeVar("T")


@schema_app.command("upgrade")
def upgrade_command(database_url: DatabaseUrl, names: Names = None, as_json: Json = False) -> None:
    """Bring components to their newest revision. Safe to repeat, and to run from several pods."""
    revisions = _run(upgrade(database_url, *(names or _LIBRARY)))
    if as_json:
        typer.echo(json.dumps(revisions))
    else:
        for name, revision in revisions.items():
            typer.echo(f"{name}: at revision {revision}")


@schema_app.command("check")
def check_command(database_url: DatabaseUrl, names: Names = None, as_json: Json = False) -> None:
    """Exit with 0 when the database is at the revision that this code needs, else with 1."""
    wanted = names or _LIBRARY
    try:
        _run(_check(database_url, *wanted))
    except SchemaBehindError as error:
        if as_json:
            typer.echo(json.dumps({"ok": False, "reason": str(error)}))
        else:
            _print_error(error)
        raise typer.Exit(1) from None
    typer.echo(json.dumps({"ok": True}) if as_json else f"up to date: {', '.join(wanted)}")


@schema_app.command("list")
def list_command(as_json: Json = False) -> None:
    """List the installed components."""
    names = sorted(components())
    typer.echo(json.dumps(names) if as_json else "\n".join(names))


async def _check(database_url: str, *names: str) -> None:
    engine = create_engine(database_url, application_name="onceproof-schema", pool_size=1)
    try:
        await check(engine, *names)
    finally:
        await engine.dispose()


def _run(work: Coroutine[Any, Any, T]) -> T:
    try:
        return asyncio.run(work)
    except SchemaBehindError:
        raise
    except OnceproofError as error:
        _print_error(error)
        raise typer.Exit(2) from None


def _print_error(error: OnceproofError) -> None:
    # Not wrapped: it may hold a command to copy. Escaped: a driver's words may look like markup.
    _errors.print(f"[red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
