"""The thread on which proofs run among somebody's tests."""

import asyncio
import signal
import threading

import pytest

from onceproof_chaos.prove.pytest_plugin import _LoopThread


@pytest.fixture
def thread():
    running = _LoopThread()
    yield running
    running.close()


@pytest.fixture
def _default_interrupt():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


async def fail():
    raise LookupError("no")


def test_results_and_errors_come_back(thread):
    assert thread.run(asyncio.sleep(0, "done")) == "done"
    with pytest.raises(LookupError):
        thread.run(fail())
    assert thread.run(asyncio.sleep(0, "and again")) == "and again"


@pytest.mark.usefixtures("_default_interrupt")
def test_what_is_interrupted_has_cleaned_up_before_the_interrupt_goes_on(thread):
    events, main = [], threading.get_ident()

    async def work():
        try:
            signal.pthread_kill(main, signal.SIGINT)
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.2)
            events.append("cleaned up")

    with pytest.raises(KeyboardInterrupt):
        thread.run(work())
    assert events == ["cleaned up"]


def test_an_interrupt_before_the_future_is_there_ends_the_work_too(thread, monkeypatch):
    events, submit = [], asyncio.run_coroutine_threadsafe
    started = threading.Event()

    async def work():
        try:
            started.set()
            await asyncio.sleep(60)
        finally:
            events.append("cleaned up")

    def interrupted(work, loop):
        monkeypatch.undo()
        submit(work, loop)
        assert started.wait(10)
        raise KeyboardInterrupt

    monkeypatch.setattr(asyncio, "run_coroutine_threadsafe", interrupted)
    with pytest.raises(KeyboardInterrupt):
        thread.run(work())
    assert events == ["cleaned up"]
