"""`onceproof trace`: what happened to one order, from the trace store of a running installation."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Final

import aiohttp
import typer
from rich.table import Table
from rich.text import Text

from onceproof_chaos.cli.options import Context, Exit, Json, Namespace, errors, results, run
from onceproof_chaos.kubectl import Kubectl, KubectlError
from onceproof_chaos.spans import Span
from onceproof_chaos.traces import TraceStore, TraceStoreError
from onceproof_chaos.tracestory import Line, lines_of

_LOOK_BACK_S: Final = 7 * 24 * 3600.0


def trace(
    order: Annotated[str, typer.Argument(help="Id of an order, e.g. o-1-000042.")],
    traces_url: Annotated[
        str | None,
        typer.Option(
            "--traces-url",
            help="Jaeger's query API, e.g. http://localhost:16686.",
            show_default="the chart's Jaeger, through kubectl",
        ),
    ] = None,
    namespace: Namespace = None,
    context: Context = None,
    as_json: Json = False,
) -> None:
    """Tell one order's story: every span of it, over producer, relay and each delivery attempt.

    For example

        onceproof trace o-1-000042 --namespace payments
            through the API server's proxy to the chart's Jaeger

        onceproof trace o-1-000042 --traces-url http://localhost:16686

    Spans of the last week are looked for.

    Exit code: 0, or 2 when there is nothing of the order, or no trace store.
    """
    spans = run(_spans(order, traces_url, Kubectl(namespace, context)))
    if not spans:
        errors.print(
            f"[red]error:[/] no span of {order}: is the id right, does the service export to this "
            "trace store (ONCEPROOF_OTLP_ENDPOINT), and does the store still have it? Jaeger keeps "
            "traces in memory unless it has a storage",
            highlight=False,
            soft_wrap=True,
        )
        raise typer.Exit(Exit.USAGE)
    lines = lines_of(order, spans)
    if as_json:
        typer.echo(json.dumps([asdict(line) for line in lines]))
    else:
        results.print(_table(order, lines))


async def _spans(order: str, url: str | None, kubectl: Kubectl) -> list[Span]:
    since = time.time() - _LOOK_BACK_S
    if url is not None:
        async with aiohttp.ClientSession() as http:
            return await TraceStore(http, url).of_order(order, since=since)
    service = await kubectl.service_path("jaeger", "query")

    async def fetch(path: str) -> bytes | None:
        try:
            return await kubectl.raw(service + path)
        except KubectlError as error:
            if error.not_found:
                return None
            raise TraceStoreError(f"no trace store through kubectl: {error}") from error

    return await TraceStore(fetch, service).of_order(order, since=since)


def _table(order: str, lines: Sequence[Line]) -> Table:
    traces = {line.trace_id for line in lines if line.own}
    table = Table(title=f"{order} (trace {', '.join(sorted(traces))})", title_justify="left")
    table.add_column("s", justify="right")
    table.add_column("ms", justify="right")
    for column in ("service", "pod", "span", "what"):
        table.add_column(column, overflow="fold")
    for line in lines:
        table.add_row(
            f"{line.at - lines[0].at:.3f}",
            f"{line.duration_s * 1000:.1f}",
            line.service,
            Text(line.instance),
            Text(line.span),
            Text(line.what, style="red" if line.crash_point else "green" if line.dedup_hit else ""),
        )
    return table


__all__ = ["trace"]
