"""When the floor may rise, on a connection that answers from a script."""

from __future__ import annotations

import pytest

from onceproof.outbox import statements
from onceproof.outbox.floor import RECHECK_S, Floor


class Server:
    """What Postgres would answer."""

    def __init__(self) -> None:
        self.last_seq: int | None = None
        self.writers: dict[str, bool] = {}
        self.pending: set[int] = set()

    async def fetchval(self, statement: str, *values: int) -> int | None:
        if statement == statements.LAST_SEQ:
            return self.last_seq
        assert statement == statements.FIRST_PENDING
        return min((s for s in self.pending if values[0] <= s < values[1]), default=None)

    async def fetch(self, statement: str) -> list[dict[str, object]]:
        assert statement == statements.WRITERS
        return [
            {"virtualtransaction": name, "prepared": prepared}
            for name, prepared in self.writers.items()
        ]


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        self.now += 1.0  # each look is a new one
        return self.now


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def floor(clock: Clock) -> Floor:
    return Floor(clock=clock)


async def test_nothing_is_known_of_an_empty_table(server: Server, floor: Floor) -> None:
    assert await floor.now(server, 1) == 0
    assert floor.complete == 0


async def test_it_rises_to_the_first_pending_row_and_beyond_the_last(
    server: Server, floor: Floor
) -> None:
    server.last_seq, server.pending = 10, {4, 9}
    assert await floor.now(server, 1) == 4
    server.pending = {9}
    server.last_seq = 11
    assert await floor.now(server, 1) == 9
    server.pending = set()
    assert await floor.now(server, 1) == 12
    assert floor.complete == 11


async def test_a_writer_holds_it_until_it_has_ended_and_later_ones_do_not(
    server: Server, floor: Floor
) -> None:
    server.last_seq, server.writers = 10, {"3/7": False}
    assert await floor.now(server, 1) == 0
    server.last_seq, server.writers = 20, {"3/7": False, "4/1": False}
    assert await floor.now(server, 1) == 0
    server.writers = {"3/8": False, "4/1": False}
    assert await floor.now(server, 1) == 11  # what was given out when 3/7 was noted


async def test_a_transaction_that_was_prepared_has_not_ended(server: Server, floor: Floor) -> None:
    server.last_seq, server.writers = 10, {"3/7": False}
    await floor.now(server, 1)
    server.writers = {"-1/900": True}
    assert await floor.now(server, 1) == 0
    server.writers = {}
    assert await floor.now(server, 1) == 11


async def test_another_connection_starts_from_nothing(server: Server, floor: Floor) -> None:
    server.last_seq = 10
    assert await floor.now(server, 1) == 11
    epoch = floor.epoch
    server.writers = {"3/7": False}
    assert await floor.now(server, 2) == 0
    assert floor.epoch == epoch + 1


async def test_a_sequence_that_was_reset_is_noticed(server: Server, floor: Floor) -> None:
    server.last_seq = 1_000
    await floor.now(server, 1)
    server.last_seq, server.pending = 3, {2}
    assert await floor.now(server, 1) == 2


async def test_it_is_found_out_anew_now_and_then(
    server: Server, floor: Floor, clock: Clock
) -> None:
    server.last_seq = 10
    assert await floor.now(server, 1) == 11
    server.pending = {5}  # put back by hand
    assert await floor.now(server, 1) == 11
    clock.now += RECHECK_S
    assert await floor.now(server, 1) == 5


async def test_an_answer_is_used_for_a_while(server: Server) -> None:
    floor = Floor(clock=lambda: 100.0)
    server.last_seq = 10
    assert await floor.now(server, 1) == 11
    server.last_seq = 20
    assert await floor.now(server, 1) == 11
