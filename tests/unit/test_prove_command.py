"""A command as the consumer: what it starts ends with it, and nobody waits for the wrong one."""

import asyncio
import shlex
import sys
import time

import psutil
import pytest

from onceproof_chaos.backend import BackendError, Role
from onceproof_chaos.prove.command import CommandBackend

# Ends when it is told to, or after so many seconds, and leaves a child that does not want to.
PARENT = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", sys.argv[2]])
time.sleep(float(sys.argv[1]))
"""
CHILD = (
    "import os, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    "print(os.getpid(), flush=True); time.sleep(60)"
)


@pytest.fixture
async def backend(tmp_path):
    """Runs the parent for the seconds that are given."""
    (tmp_path / "parent.py").write_text(PARENT)
    started = []

    def make(seconds):
        command = shlex.join([sys.executable, "parent.py", str(seconds), CHILD])
        started.append(CommandBackend(command, tmp_path, {}, tmp_path))
        return started[-1]

    yield make
    for each in started:
        await each.stop()


def alive(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def children(folder, count):
    async with asyncio.timeout(20):
        while True:
            log = folder / "consumer-0.log"
            pids = [int(word) for word in log.read_text().split()] if log.exists() else []
            if len(pids) >= count:
                return pids
            await asyncio.sleep(0.02)


async def until_gone(pid):
    deadline = time.monotonic() + 10
    while alive(pid):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


async def test_what_a_command_started_ends_with_the_run(backend, tmp_path):
    running = backend(60)
    await running.start(Role.CONSUMER, "consumer-0", ())
    [child] = await children(tmp_path, 1)
    await running.stop()
    await until_gone(child)


async def test_what_a_command_left_behind_is_gone_when_its_successor_runs(backend, tmp_path):
    running = backend(0.1)
    first = await running.start(Role.CONSUMER, "consumer-0", ())
    [child] = await children(tmp_path, 1)
    assert await running.died(first) == 0
    assert alive(child)
    await running.start(Role.CONSUMER, "consumer-0", ())
    await until_gone(child)


async def test_nobody_waits_for_a_command_that_was_replaced(backend):
    running = backend(0.1)
    first = await running.start(Role.CONSUMER, "consumer-0", ())
    await running.died(first)
    second = await running.start(Role.CONSUMER, "consumer-0", ())
    with pytest.raises(BackendError, match="was replaced already"):
        await running.kill(first)
    assert await running.kill(second) == -9
