"""`onceproof campaign fetch`: the run folder of a campaign in the cluster, and its verdict."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from onceproof_chaos.cli.options import Context, Json, Namespace, run
from onceproof_chaos.cli.results import verify
from onceproof_chaos.fetch import fetch
from onceproof_chaos.kubectl import Kubectl


def fetch_command(
    name: Annotated[str, typer.Argument(help="Name of a Campaign: kubectl get campaigns")],
    namespace: Namespace = None,
    context: Context = None,
    to: Annotated[Path, typer.Option("--to", help="Where run folders go.", file_okay=False)] = Path(
        "runs"
    ),
    as_json: Json = False,
) -> None:
    """Fetch the run folder of a finished Campaign from the cluster, and judge it here again.

    For example

        onceproof campaign fetch nightly --namespace payments
            then: onceproof report runs/latest

    The way is the API server's proxy: kubectl and the right to get services/proxy are needed.

    Exit code: as of verify; 2 also when there is nothing to fetch.
    """
    folder = run(fetch(Kubectl(namespace, context), name, to))
    typer.echo(f"run folder {folder.path}", err=True)
    verify(folder.path, as_json=as_json)


__all__ = ["fetch_command"]
