"""Threads for a client whose calls block, and may block for ever.

A commit waits for a broker that is away until it is back. A thread of the standard library's pool is
waited for when the process ends, which then hangs; these are not.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from queue import SimpleQueue
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class DaemonThreads(Executor):
    """An executor that the end of the process does not wait for.

    Args:
        count: threads.
        name: of them.
    """

    def __init__(self, count: int, name: str) -> None:
        self._work: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._count = count
        for number in range(count):
            threading.Thread(target=self._run, name=f"{name}-{number}", daemon=True).start()

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Have a call made in one of the threads."""
        future: Future[T] = Future()

        def call() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(fn(*args, **kwargs))
            except BaseException as error:  # noqa: BLE001 - whoever waits for the future gets it
                future.set_exception(error)

        self._work.put(call)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Let the threads end when they have done what was submitted; nobody waits for them."""
        del wait, cancel_futures
        for _ in range(self._count):
            self._work.put(None)

    def _run(self) -> None:
        while (call := self._work.get()) is not None:
            call()


__all__ = ["DaemonThreads"]
