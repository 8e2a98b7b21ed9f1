"""A service of the pipeline as a process of its own, as it is deployed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final

import aiohttp

from benchmarks.figures import InvalidRunError

_POLL_S: Final = 0.05
_READY_S: Final = 180.0
"""A cold start takes two seconds, and on a busy machine a minute."""


@asynccontextmanager
async def service(
    module: str, admin_port: int, environment: Mapping[str, str]
) -> AsyncIterator[int]:
    """A service process, ready; its process id.

    Args:
        module: e.g. `onceproof_consumer`.
        admin_port: for health and metrics.
        environment: its settings.

    Raises:
        InvalidRunError: it did not get ready; the message has the end of its log.
    """
    with tempfile.TemporaryFile() as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", module,
            stdout=log, stderr=log,
            env={
                **os.environ, **environment,
                "ONCEPROOF_ADMIN_HOST": "127.0.0.1", "ONCEPROOF_ADMIN_PORT": str(admin_port),
            },
        )  # fmt: skip
        try:
            if not await _ready(process, f"http://127.0.0.1:{admin_port}/readyz"):
                log.seek(0)
                text = log.read().decode(errors="replace")[-1500:]
                raise InvalidRunError(f"{module} did not get ready:\n{text}")
            yield process.pid
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
            try:
                async with asyncio.timeout(30):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()


async def _ready(process: asyncio.subprocess.Process, url: str) -> bool:
    async with aiohttp.ClientSession() as http:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_READY_S):
                while process.returncode is None:
                    with contextlib.suppress(aiohttp.ClientError):
                        async with http.get(url) as response:
                            if response.status == 200:
                                return True
                    await asyncio.sleep(_POLL_S)
    return False
