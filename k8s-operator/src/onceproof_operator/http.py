"""The operator's HTTP port: health, metrics, and the run folders of campaigns as archives."""

from __future__ import annotations

import asyncio
import io
import re
import tarfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from onceproof.admin import Health
from onceproof_operator.settings import OperatorSettings

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_ACCESS_LOG: Final = None


@asynccontextmanager
async def serve(settings: OperatorSettings, health: Health) -> AsyncIterator[None]:
    """Serve `/healthz`, `/readyz`, `/metrics`, `/runs` and `/runs/<name>.tar.gz`."""
    runner = web.AppRunner(application(settings.runs_dir, health), access_log=_ACCESS_LOG)
    await runner.setup()
    try:
        await web.TCPSite(runner, "0.0.0.0", settings.http_port).start()
        yield
    finally:
        await runner.cleanup()


def application(runs: Path, health: Health) -> web.Application:
    """The routes.

    Args:
        runs: folder of the run folders.
        health: what `/readyz` reports.
    """

    async def healthz(_: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def readyz(_: web.Request) -> web.Response:
        reasons = health.reasons
        if reasons:
            return web.json_response({"status": "not ready"} | reasons, status=503)
        return web.json_response({"status": "ready"})

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def names(_: web.Request) -> web.Response:
        return web.json_response(sorted(path.name for path in _folders(runs)))

    async def archive(request: web.Request) -> web.Response:
        name = request.match_info["name"]
        folder = runs / name
        if folder not in _folders(runs):
            raise web.HTTPNotFound(text=f"no run folder {name}; it may have gone with its pod\n")
        body = await asyncio.to_thread(_pack, folder)
        return web.Response(body=body, content_type="application/gzip")

    app = web.Application()
    app.add_routes(
        [
            web.get("/healthz", healthz),
            web.get("/readyz", readyz),
            web.get("/metrics", metrics),
            web.get("/runs", names),
            web.get("/runs/{name}.tar.gz", archive),
        ]
    )
    return app


def _folders(runs: Path) -> list[Path]:
    if not runs.is_dir():
        return []
    # One path component without a leading dot: nothing outside of the folder can be named.
    return [
        path
        for path in runs.iterdir()
        if _NAME.fullmatch(path.name) and path.is_dir() and not path.is_symlink()
    ]


def _pack(folder: Path) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        archive.add(folder, arcname=folder.name)
    return packed.getvalue()
