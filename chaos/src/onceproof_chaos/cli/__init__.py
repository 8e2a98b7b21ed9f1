"""Commands that the proving ground adds to `onceproof`."""

from __future__ import annotations

import typer

from onceproof_chaos.cli.ablate import ablate
from onceproof_chaos.cli.campaign import campaign_app
from onceproof_chaos.cli.demo import demo
from onceproof_chaos.cli.drill import drill
from onceproof_chaos.cli.explain import explain
from onceproof_chaos.cli.fetch import fetch_command
from onceproof_chaos.cli.prove import prove_command
from onceproof_chaos.cli.results import report, verify
from onceproof_chaos.cli.trace import trace
from onceproof_chaos.cli.workload import workload

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the commands; named by the entry point group `onceproof.commands`."""
    app.command("demo")(demo)
    app.command("drill")(drill)
    campaign_app.command("workload")(workload)
    campaign_app.command("fetch")(fetch_command)
    app.add_typer(campaign_app, name="campaign")
    app.command("verify")(verify)
    app.command("report")(report)
    app.command("trace")(trace)
    app.command("explain")(explain)
    app.command("ablate")(ablate)
    app.command("prove")(prove_command)
