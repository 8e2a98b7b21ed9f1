"""ElasticMQ for the benchmark: a real broker in a process of its own, in memory, with its defaults.

The embedded SQS server that the tests use is one Python process, which would be what is measured. This
one is a JVM that takes several thousand messages a second. It runs in a container on the host's
network, so that no proxy of the container engine stands in between.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import aiohttp

from benchmarks.contest import NotRunError
from benchmarks.ports import free_port

IMAGE: Final = "softwaremill/elasticmq:1.7.1"
REGION: Final = "elasticmq"
CREDENTIALS: Final = {
    "AWS_ACCESS_KEY_ID": "local",
    "AWS_SECRET_ACCESS_KEY": "local",
    "AWS_DEFAULT_REGION": REGION,
    "AWS_REGION": REGION,
}
# Removes the container when our end of its stdin closes, which the kernel does however we end.
_WATCHER: Final = 'read -r _; docker rm --force "$1" > /dev/null 2>&1'
_READY_S: Final = 60.0
_POLL_S: Final = 0.1
_CONFIGURATION: Final = """
include classpath("application.conf")
node-address {{ protocol = http, host = "127.0.0.1", port = {port}, context-path = "" }}
rest-sqs {{ enabled = true, bind-port = {port}, bind-hostname = "127.0.0.1", sqs-limits = strict }}
rest-stats {{ enabled = false }}
"""


@dataclass(frozen=True, slots=True)
class QueueServer:
    """An SQS endpoint.

    Args:
        endpoint: its URL.
        pid: of its process on this machine; None where it is elsewhere.
        what: name and version, for the report.
    """

    endpoint: str
    pid: int | None
    what: str


@asynccontextmanager
async def elasticmq(endpoint: str | None) -> AsyncIterator[QueueServer]:
    """A running server.

    Args:
        endpoint: URL of one that runs; None starts a container.

    Raises:
        NotRunError: there is none, and none can be started.
    """
    if endpoint is not None:
        await _until_ready(endpoint)
        yield QueueServer(endpoint, None, endpoint)
        return
    if shutil.which("docker") is None:
        raise NotRunError(
            f"needs an SQS server: docker, to start {IMAGE}, or --sqs-endpoint with the URL of one"
        )
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="onceproof-elasticmq-") as directory:
        configuration = Path(directory) / "elasticmq.conf"
        configuration.write_text(_CONFIGURATION.format(port=port))
        await asyncio.to_thread(Path(directory).chmod, 0o755)
        container = f"onceproof-bench-elasticmq-{os.getpid()}"
        watcher = await asyncio.create_subprocess_exec(
            "/bin/sh", "-c", _WATCHER, "onceproof-elasticmq-watcher", container,
            stdin=asyncio.subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        try:
            await _docker(
                "run", "--detach", "--rm", "--network=host", f"--name={container}",
                f"--volume={configuration}:/opt/elasticmq.conf:ro", IMAGE,
            )  # fmt: skip
            endpoint = f"http://127.0.0.1:{port}"
            await _until_ready(endpoint)
            state = json.loads(await _docker("inspect", "--format={{json .State}}", container))
            yield QueueServer(endpoint, _on_this_machine(int(state.get("Pid", 0))), IMAGE)
        finally:
            if watcher.stdin is not None:
                watcher.stdin.close()
            await watcher.wait()


async def _docker(*arguments: str) -> str:
    process = await asyncio.create_subprocess_exec(
        "docker", *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, error = await process.communicate()
    if process.returncode:
        text = " ".join(error.decode(errors="replace").split())[-300:]
        raise NotRunError(f"docker {arguments[0]} failed: {text}")
    return out.decode()


async def _until_ready(endpoint: str) -> None:
    try:
        async with asyncio.timeout(_READY_S), aiohttp.ClientSession() as http:
            while True:
                try:
                    async with http.get(f"{endpoint}/?Action=ListQueues") as answer:
                        await answer.read()
                        if answer.status < 500:
                            return
                except aiohttp.ClientError:
                    pass
                await asyncio.sleep(_POLL_S)
    except TimeoutError:
        raise NotRunError(
            f"the SQS server at {endpoint} did not answer in {_READY_S:.0f} s"
        ) from None


def _on_this_machine(pid: int) -> int | None:
    """The container's process, unless the engine is in a virtual machine with its own numbers."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return None
    return pid if b"elasticmq" in command else None
