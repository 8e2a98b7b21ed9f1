"""The Typer application: the library's own commands, and those of installed packages.

The library must not import the proving ground, so `demo`, `campaign`, `verify` and `report` register
themselves through the entry point group `onceproof.commands`.
"""

from __future__ import annotations

from importlib.metadata import entry_points, version
from typing import Annotated, Final

import typer

from onceproof.cli.dlq import dlq_app
from onceproof.cli.outbox import outbox_app
from onceproof.cli.schema import schema_app
from onceproof.cli.topics import topics_app

_GROUP: Final = "onceproof.commands"


def build() -> typer.Typer:
    """The application with every installed command."""
    app = typer.Typer(
        name="onceproof",
        help="Charge every order once, and prove it.",
        no_args_is_help=True,
        rich_markup_mode="rich",
        pretty_exceptions_show_locals=False,  # locals may hold a database password
    )

    @app.callback()
    def _root(
        _version: Annotated[
            bool,
            typer.Option(
                "--version", help="Print the version.", callback=_print_version, is_eager=True
            ),
        ] = False,
    ) -> None:
        """Charge every order once, and prove it."""

    app.add_typer(schema_app, name="schema")
    app.add_typer(dlq_app, name="dlq")
    app.add_typer(topics_app, name="topics")
    app.add_typer(outbox_app, name="outbox")
    for point in sorted(entry_points(group=_GROUP), key=lambda found: found.name):
        point.load()(app)
    return app


def main() -> None:
    """Entry point of the command."""
    build()()


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(version("onceproof"))
        raise typer.Exit
