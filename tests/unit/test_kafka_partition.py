"""One partition in hand: order of a key, redelivery, what may be committed, and counts across owners."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("confluent_kafka")

from onceproof.brokers.kafka.deliveries import MAX_CHARS, Deliveries
from onceproof.brokers.kafka.headers import NO_RETRY, Retry
from onceproof.brokers.kafka.partition import Partition, Record
from onceproof.ports import Message

NOW = 1000.0


def record(offset: int, key: str | None = None, *, retry: Retry = NO_RETRY) -> Record:
    return Record(offset, key.encode() if key else None, b"%d" % offset, {}, None, retry)


def partition(*records: Record, committed: Deliveries | None = None) -> Partition:
    made = Partition("orders", 0, committed or Deliveries(0, 0))
    for one in records:
        made.fetched(one)
    return made


def announce(held: Partition, now_s: float = NOW) -> None:
    held.announced(held.due(now_s, 250))


def offsets(messages: list[Message]) -> list[int]:
    return [int(message.body) for message in messages]


def test_nothing_is_handed_out_before_its_count_is_committed() -> None:
    held = partition(record(0), record(1))
    assert held.take(10, NOW) == []
    announce(held)
    first, second = held.take(10, NOW)
    assert (first.attempt, second.attempt) == (1, 1)
    assert first.message_id == "orders-0@0"


def test_of_a_key_only_the_oldest_is_in_hand() -> None:
    held = partition(record(0, "a"), record(1, "a"), record(2, "b"), record(3), record(4, "a"))
    announce(held)
    taken = held.take(10, NOW)
    assert offsets(taken) == [0, 2, 3]
    held.settle(held.find(taken[0].receipt))  # type: ignore[arg-type]
    announce(held)
    assert offsets(held.take(10, NOW)) == [1]


def test_what_is_given_back_comes_before_what_follows_it() -> None:
    held = partition(record(0, "a"), record(1, "a"))
    announce(held)
    (first,) = held.take(10, NOW)
    held.give_back(held.find(first.receipt))  # type: ignore[arg-type]
    assert held.take(10, NOW) == []  # its second delivery is not counted yet
    announce(held)
    (again,) = held.take(10, NOW)
    assert (again.body, again.attempt) == (b"0", 2)
    assert held.find(first.receipt) is None


def test_base_is_the_oldest_that_is_not_settled() -> None:
    held = partition(record(5), record(7), record(9), committed=Deliveries(5, 5))
    announce(held)
    five, seven, nine = held.take(10, NOW)
    held.settle(held.find(nine.receipt))  # type: ignore[arg-type]
    assert held.base == 5
    held.settle(held.find(five.receipt))  # type: ignore[arg-type]
    assert held.base == 7  # 6 is a gap
    held.settle(held.find(seven.receipt))  # type: ignore[arg-type]
    assert held.base == 10
    held.ended(12)  # marks of a transaction
    assert held.base == 12


def test_visibility_that_lapses_gives_back() -> None:
    held = partition(record(0))
    announce(held)
    (taken,) = held.take(1, 50.0)
    assert held.lapse(49.9) == 0
    assert held.lapse(50.0) == 1
    assert held.find(taken.receipt) is None
    assert held.in_hand == 0


def test_a_retry_waits_for_its_time_and_counts_on() -> None:
    waits = record(0, retry=Retry("orders-0@7", 3, NOW + 5))
    held = partition(waits, record(1))
    announce(held)
    assert offsets(held.take(10, NOW)) == [1]
    assert held.deliveries() == Deliveries(0, 2, {0: 0})
    announce(held, NOW + 5)
    (again,) = held.take(10, NOW)
    assert (again.message_id, again.attempt) == ("orders-0@7", 4)


def test_what_was_ready_and_not_handed_out_was_not_delivered() -> None:
    held = partition(*(record(i) for i in range(4)))
    announce(held)
    assert offsets(held.take(1, NOW)) == [0]
    held.withdraw()
    told = held.deliveries()
    assert [told.of(i) for i in range(4)] == [1, 0, 0, 0]
    assert (held.ready, held.in_hand, held.out) == (0, 1, 1)
    announce(held)
    assert [message.attempt for message in held.take(10, NOW)] == [1, 1, 1]


def test_the_next_owner_knows_what_was_handed_out() -> None:
    first = partition(*(record(i) for i in range(5)))
    announce(first)
    first.give_back(first.find(first.take(1, NOW)[0].receipt))  # type: ignore[arg-type]
    announce(first)
    told = first.deliveries()
    second = partition(
        *(record(i) for i in range(7)), committed=Deliveries.decode(told.offset, told.encode())
    )
    announce(second)
    assert [message.attempt for message in second.take(10, NOW)] == [3, 2, 2, 2, 2, 1, 1]


def test_an_owner_who_has_not_fetched_a_record_keeps_its_count() -> None:
    held = partition(record(0), committed=Deliveries(0, 3, {0: 2, 2: 4}))
    announce(held)
    told = held.deliveries()
    assert [told.of(i) for i in range(4)] == [3, 1, 4, 0]


@pytest.mark.parametrize(
    "metadata", [None, "", "rubbish", "2;3;", "1;x;", "1;3;4", "1;3;a:b", ";;;"]
)
def test_foreign_metadata_means_that_nothing_is_known(metadata: str | None) -> None:
    assert Deliveries.decode(7, metadata).of(7) == 0


@given(
    st.integers(0, 10**12), st.integers(0, 250),
    st.dictionaries(st.integers(0, 10**7), st.integers(0, 99), max_size=250),
)  # fmt: skip
def test_metadata_survives_and_fits(offset: int, high: int, distances: dict[int, int]) -> None:
    told = Deliveries(offset, offset + high, {offset + d: n for d, n in distances.items()})
    text = told.encode()
    assert len(text) <= MAX_CHARS
    assert Deliveries.decode(offset, text) == told


@dataclass
class Model:
    """What a broker and a group remember, while owners of the partition come and go."""

    keys: list[str | None]
    committed: tuple[int, str | None] = (0, None)
    settled: set[int] = field(default_factory=set)
    handed: dict[int, int] = field(default_factory=dict)


@given(
    st.lists(st.sampled_from([None, "a", "b"]), min_size=1, max_size=12),
    st.lists(
        st.tuples(st.sampled_from(["take", "ack", "back", "lapse", "commit", "crash"]),
                  st.integers(0, 11)),
        max_size=40,
    ),
)  # fmt: skip
def test_every_record_is_settled_once_in_order_of_its_key_and_no_delivery_is_uncounted(
    keys: list[str | None], steps: list[tuple[str, int]]
) -> None:
    model = Model(keys)
    held = owner(model)
    in_hand: list[Message] = []
    for name, which in [*steps, *([("take", 11), ("ack", 0)] * 2 * len(keys))]:
        if name == "take":
            fetch(model, held, 12)
            commit(model, held, announce_too=True)
            for message in held.take(which + 1, NOW):
                offset = int(message.body)
                model.handed[offset] = model.handed.get(offset, 0) + 1
                # A record that was ready when its owner died was counted and never handed out.
                assert message.attempt >= model.handed[offset]
                older = {
                    i for i in range(offset) if keys[i] is not None and keys[i] == keys[offset]
                }
                assert older <= model.settled
                in_hand.append(message)
        elif name == "commit":
            commit(model, held)
        elif name == "crash":
            held, in_hand = owner(model), []
            fetch(model, held, which)
        elif in_hand:
            message = in_hand.pop(which % len(in_hand))
            found = held.find(message.receipt)
            if name == "lapse":
                held.lapse(NOW)
                in_hand = []
            elif found is not None and name == "ack":
                model.settled.add(int(message.body))
                held.settle(found)
            elif found is not None:
                held.give_back(found)
    fetch(model, held, 12)
    commit(model, held)
    assert model.settled == set(range(len(keys)))
    assert model.committed[0] == len(keys)


def owner(model: Model) -> Partition:
    offset, metadata = model.committed
    return Partition("orders", 0, Deliveries.decode(offset, metadata))


def fetch(model: Model, held: Partition, many: int) -> None:
    for i in range(held.position, min(held.position + many, len(model.keys))):
        held.fetched(record(i, model.keys[i]))


def commit(model: Model, held: Partition, *, announce_too: bool = False) -> None:
    about_to = held.due(NOW, 250) if announce_too else []
    told = held.deliveries(about_to)
    model.committed = (told.offset, told.encode())
    held.announced(about_to)
