"""The life of a service process: start, wait for what it depends on, run, drain, exit.

A dependency that is away is waited for and reported by `/readyz`; the process neither spins nor
exits. A configuration that cannot work is a message that says what to do, and exit code 78.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, Generic, TypeVar

import tenacity
import uvloop
from opentelemetry.sdk.trace import TracerProvider
from pydantic import ValidationError
from pydantic_settings import SettingsError

from onceproof.admin import AdminServer, Health
from onceproof.crashpoints import crash_points
from onceproof.errors import (
    ConfigurationError,
    QueueNotFoundError,
    SchemaBehindError,
    TransientError,
)
from onceproof.service.logs import configure_logging
from onceproof.service.settings import ServiceSettings, explain
from onceproof.service.tracing import configure_tracing

logger = logging.getLogger(__name__)

EX_CONFIG: Final = 78
"""Exit code for a configuration that cannot work (sysexits.h)."""
_CHECK_TIMEOUT_S: Final = 10.0
_STARTUP: Final = "startup"

S = TypeVar("S", bound=ServiceSettings)
T = TypeVar("T")


class StopRequestedError(Exception):
    """The process was asked to stop before its dependencies were there."""


class Runtime(Generic[S]):
    """What a service's main function gets.

    `stop` is set by SIGTERM and SIGINT; whoever sees it finishes its work within
    `settings.drain_timeout_s` seconds and returns.
    """

    def __init__(self, settings: S) -> None:
        self.settings = settings
        self.health = Health()
        self.health.not_ready(_STARTUP, "starting")
        self.stop = asyncio.Event()

    async def until_ready(self, dependency: str, check: Callable[[], Awaitable[T]]) -> T:
        """Call `check` until it succeeds, with jittered backoff while it raises `TransientError`.

        A schema that is behind, and a queue or topic that is missing, are waited for too, up to
        `settings.schema_wait_s` seconds: where a roll-out starts what makes them and the services
        together, they are on their way.

        Raises:
            ConfigurationError: from the check; waiting would not help.
            StopRequestedError: the process is to stop.
        """
        self.health.not_ready(dependency, "not checked yet")
        migrated_by = time.monotonic() + self.settings.schema_wait_s

        def passing(error: BaseException) -> bool:
            if isinstance(error, SchemaBehindError | QueueNotFoundError):
                return time.monotonic() < migrated_by
            return isinstance(error, TransientError | TimeoutError)

        retrying = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception(passing),
            wait=tenacity.wait_exponential(multiplier=0.2, max=5.0) + tenacity.wait_random(0, 0.5),
            sleep=self._sleep,
            before_sleep=lambda state: self._away(dependency, state),
        )
        async for attempt in retrying:
            with attempt:
                async with asyncio.timeout(_CHECK_TIMEOUT_S):
                    result = await check()
                self.health.ready(dependency)
                return result
        raise AssertionError("unreachable: retries have no end")

    def started(self) -> None:
        """Everything that was waited for is there; from now on only `health` decides."""
        self.health.ready(_STARTUP)

    def watch(self, dependency: str, reason: str | None) -> None:
        """Report a dependency that went away (with the reason) or came back (None)."""
        if reason is None:
            self.health.ready(dependency)
        else:
            self.health.not_ready(dependency, reason)

    async def _sleep(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.stop.wait()
        if self.stop.is_set():
            raise StopRequestedError

    def _away(self, dependency: str, state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        reason = str(error) or type(error).__name__
        self.health.not_ready(dependency, reason)
        logger.warning("%s is not ready, trying again: %s", dependency, reason)


def run_service(
    load: Callable[[], S], main: Callable[[Runtime[S]], Coroutine[Any, Any, None]]
) -> int:
    """Run a service until it is told to stop; the exit code.

    Args:
        load: reads the settings from the environment, usually the settings class itself.
        main: the service.
    """
    try:
        settings = load()
        configure_logging(settings.service_name, settings.log_level)
        crash_points.arm(settings.armed)
        provider = configure_tracing(
            settings.service_name,
            f"{socket.gethostname()}-{os.getpid()}",
            spans_file=settings.spans_file,
            otlp_endpoint=settings.otlp_endpoint,
        )
    except ValidationError as error:
        return _refuse(explain(error))
    except (SettingsError, ConfigurationError) as error:
        return _refuse(str(error))
    except OSError as error:
        return _refuse(f"ONCEPROOF_SPANS_FILE cannot be opened: {error}")
    logger.info("starting with %s", json.dumps(settings.printable()))
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_supervise(settings, main))
    except ConfigurationError as error:
        return _refuse(str(error))
    finally:
        _shut_down(provider)
    return 0


async def _supervise(settings: S, main: Callable[[Runtime[S]], Coroutine[Any, Any, None]]) -> None:
    runtime = Runtime(settings)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, runtime.stop.set)
    try:
        admin = AdminServer(
            settings.admin_host, settings.admin_port, runtime.health, chaos=settings.chaos_enabled
        )
    except OSError as error:
        raise ConfigurationError(
            f"the admin port {settings.admin_port} cannot be opened: {error.strerror or error}; set "
            "ONCEPROOF_ADMIN_HOST and ONCEPROOF_ADMIN_PORT"
        ) from error
    admin.start()
    logger.info("admin port %d%s", admin.port, ", chaos on" if settings.chaos_enabled else "")
    try:
        await main(runtime)
    except StopRequestedError:
        logger.info("stopped before everything that it needs was there")
    finally:
        await asyncio.to_thread(admin.stop)


def _refuse(message: str) -> int:
    sys.stderr.write(f"error: {message}\n")
    return EX_CONFIG


def _shut_down(provider: TracerProvider | None) -> None:
    if provider is not None:
        provider.shutdown()
