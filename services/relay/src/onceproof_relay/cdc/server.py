"""Debezium Server as a child: started, started again when it ends, and never left behind."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Coroutine
from typing import Any, Final

from sqlalchemy.engine import make_url

from onceproof.errors import ConfigurationError
from onceproof.service.child import with_parent
from onceproof_relay.cdc.properties import PASSWORD_VARIABLE, as_text, properties
from onceproof_relay.cdc.settings import CdcSettings

logger = logging.getLogger(__name__)

JAVA: Final = ("-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1",
               "--add-opens=java.base/java.lang=ALL-UNNAMED")  # fmt: skip
ENVIRONMENT: Final = {
    # The door checks none, and the client insists on some.
    "AWS_ACCESS_KEY_ID": "door",
    "AWS_SECRET_ACCESS_KEY": "door",
    # Or its client speaks a binary protocol that the door does not know.
    "CBOR_ENABLED": "false",
    # Its Kubernetes client reads a kubeconfig where it finds one, and lacks the parser for it.
    "KUBERNETES_AUTH_TRYKUBECONFIG": "false",
}
_STOP_S: Final = 10.0


def write_configuration(settings: CdcSettings) -> None:
    """Write what Debezium Server reads, without any password."""
    path = settings.debezium_directory / "config" / "application.properties"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(as_text(properties(settings)))


async def keep_running(settings: CdcSettings, stop: asyncio.Event) -> None:
    """Run it until `stop` is set.

    Raises:
        ConfigurationError: there is no distribution where it should be.
    """
    write_configuration(settings)
    command = _command(settings)
    while not stop.is_set():
        process = await asyncio.create_subprocess_exec(
            *with_parent(*command),
            cwd=settings.debezium_directory,
            env=_environment(settings),
            stdin=asyncio.subprocess.PIPE,
            start_new_session=True,
        )  # fmt: skip
        try:
            await _first(process.wait(), stop.wait())
        finally:
            await _end(process)
        if not stop.is_set():
            logger.warning("Debezium ended with %s, starting it again", process.returncode)
            await _first(asyncio.sleep(settings.backoff_s), stop.wait())


def _command(settings: CdcSettings) -> list[str]:
    home = settings.debezium_home
    runner = next(home.glob("debezium-server-*runner.jar"), None) if home else None
    if runner is None:
        raise ConfigurationError(
            f"no Debezium Server in {home}: set ONCEPROOF_DEBEZIUM_HOME to its unpacked distribution"
        )
    return [
        settings.java, *JAVA, "-cp", f"{runner}:{home}/lib/*", "io.debezium.server.Main",
    ]  # fmt: skip


def _environment(settings: CdcSettings) -> dict[str, str]:
    url = make_url(settings.cdc_database_url.get_secret_value())
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("ONCEPROOF_")},
        PASSWORD_VARIABLE: str(url.password or ""),
        **ENVIRONMENT,
    }


async def _end(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        async with asyncio.timeout(_STOP_S):
            await process.wait()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
    finally:
        if process.stdin is not None:
            process.stdin.close()


async def _first(*waits: Coroutine[Any, Any, object]) -> None:
    """Wait for the first of them, and cancel the others."""
    tasks = [asyncio.create_task(each) for each in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
