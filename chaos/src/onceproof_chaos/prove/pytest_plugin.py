"""The proof as a pytest fixture, so that it stands among a service's other tests.

    def test_the_handler_survives(onceproof_prove):
        result = onceproof_prove(
            "my_service:handle",
            schema="schema.sql",
            invariants={"once": "SELECT ... FROM prove.published ..."},
        )
        assert result.held, result

Registered by the entry point group `pytest11`, so it is loaded in every pytest run where the package is
installed, also in those that prove nothing: what costs time is imported when it is used.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import pytest

if TYPE_CHECKING:
    from onceproof_chaos.environment import Servers
    from onceproof_chaos.prove.verdict import ProveResult

T = TypeVar("T")

_CLEAN_UP_S: Final = 60.0
"""For an interrupted proof to remove its processes, databases and queues."""


class Prove:
    """What the fixture `onceproof_prove` is.

    Args:
        servers: Postgres and SQS.
        run_to_end: what the fixture `onceproof_run` is.
        root: folder that paths are relative to.
        runs: folder that gets the run folders.
    """

    def __init__(
        self,
        servers: Servers,
        run_to_end: Callable[[Coroutine[Any, Any, Any]], Any],
        root: Path,
        runs: Path,
    ) -> None:
        self._servers = servers
        self._run_to_end = run_to_end
        self._root = root
        self._runs = runs

    def __call__(
        self,
        target: str,
        *,
        invariants: str | Sequence[str] | Mapping[str, str],
        schema: str | Path | Sequence[str | Path] = (),
        kind: str = "handler",
        path: str | Path = "",
        data: str | Mapping[str, Any] | None = None,
        **settings: Any,  # noqa: ANN401 - fields of ProveSettings
    ) -> ProveResult:
        """Prove a handler, as `onceproof prove` does.

        Args:
            target: `module:name`; a command line when `kind` is `command`.
            invariants: SQL by name, or one or several as the command line takes them.
            schema: SQL files that create the tables, relative to pytest's root folder.
            kind: handler, batch, loop or command.
            path: folder to import from, relative to pytest's root folder, which is the default.
            data: of an event, in which `$key`, `$number` and `$id` are replaced; or a JSON template.
            settings: further fields of `onceproof_chaos.prove.settings.ProveSettings`.
        """
        from onceproof_chaos.prove.invariants import Invariant, parse  # noqa: PLC0415
        from onceproof_chaos.prove.points import Kind  # noqa: PLC0415
        from onceproof_chaos.prove.proof import prove  # noqa: PLC0415
        from onceproof_chaos.prove.settings import ProveSettings  # noqa: PLC0415

        root = self._root
        if isinstance(invariants, Mapping):
            found = tuple(Invariant(name, sql) for name, sql in invariants.items())
        else:
            texts = [invariants] if isinstance(invariants, str) else invariants
            found = parse(texts, root)
        if data is not None:
            settings["data"] = data if isinstance(data, str) else json.dumps(data)
        files = [schema] if isinstance(schema, str | Path) else schema
        wanted = ProveSettings(
            target=target,
            kind=Kind(kind),
            invariants=found,
            schema=tuple(root / file for file in files),
            path=root / path,
            **settings,
        )
        result: ProveResult = self._run_to_end(prove(wanted, self._servers, self._runs))
        return result


class _LoopThread:
    """An event loop on a thread of its own: asynchronous tests, whose loop runs, may wait too."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="onceproof-prove")
        self._running: asyncio.Task[Any] | None = None
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for `work` and give its result."""
        try:
            return asyncio.run_coroutine_threadsafe(self._run(work), self._loop).result()
        except BaseException:
            # Ctrl-C, which may come before the call above has given its future: the loop knows the
            # task. The servers end next, and what the work has made there must be gone by then.
            asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
            if inspect.getcoroutinestate(work) == inspect.CORO_CREATED:
                work.close()
            raise

    async def _run(self, work: Coroutine[Any, Any, T]) -> T:
        self._running = asyncio.current_task()
        try:
            return await work
        finally:
            self._running = None

    async def _end(self) -> None:
        if self._running is not None:
            self._running.cancel()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        if others:
            await asyncio.wait(others, timeout=_CLEAN_UP_S)

    def close(self) -> None:
        """End the thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options for real servers."""
    group = parser.getgroup("onceproof")
    group.addoption(
        "--onceproof-database-url",
        help="Postgres whose user may create databases; default: an embedded one.",
    )
    group.addoption(
        "--onceproof-sqs-endpoint", help="SQS endpoint such as ElasticMQ; default: an embedded one."
    )


@pytest.fixture(scope="session")
def onceproof_run() -> Iterator[Callable[[Coroutine[Any, Any, Any]], Any]]:
    """Runs a coroutine to its end, from synchronous and asynchronous tests alike."""
    thread = _LoopThread()
    yield thread.run
    thread.close()


@pytest.fixture(scope="session")
def onceproof_servers(
    pytestconfig: pytest.Config, onceproof_run: Callable[[Coroutine[Any, Any, Any]], Any]
) -> Iterator[Servers]:
    """Postgres and SQS, started when first asked for. Override it to bring your own."""
    from onceproof_chaos.environment import servers  # noqa: PLC0415 - see the module's docstring

    stack = AsyncExitStack()
    yield onceproof_run(
        stack.enter_async_context(
            servers(
                database_url=pytestconfig.getoption("--onceproof-database-url"),
                sqs_endpoint=pytestconfig.getoption("--onceproof-sqs-endpoint"),
            )
        )
    )
    onceproof_run(stack.aclose())


@pytest.fixture
def onceproof_prove(
    pytestconfig: pytest.Config,
    tmp_path: Path,
    onceproof_servers: Servers,
    onceproof_run: Callable[[Coroutine[Any, Any, Any]], Any],
) -> Prove:
    """Breaks a consumer at every point; the result says which one breaks an invariant."""
    return Prove(onceproof_servers, onceproof_run, pytestconfig.rootpath, tmp_path / "runs")
