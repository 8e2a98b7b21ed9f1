"""One partition in the hands of this process: what was fetched, handed out, settled, and in which order.

A group gives a partition to one member; what a queue does for each message, the member does here:

    fetched -> waiting -> (delivery count committed) -> ready -> in hand -> settled
                  ^------ visibility lapsed, or given back ------'

- Of one key only the oldest record that is not settled is made ready, so a key's order survives several
  handlers at work, failures, and redeliveries.
- Only what somebody waits for is made ready: a record that a dead process merely had in its buffer must
  not look like one that killed it.
- Everything below `base` is settled; that offset is what may be committed. What is settled above it
  comes again after a crash, and the inbox recognises it.
- Records that a compaction or a transaction left out are gaps; nothing here expects offsets to be dense.

Nothing here does I/O or looks at a clock.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from itertools import islice

from onceproof.brokers.kafka.deliveries import Deliveries
from onceproof.brokers.kafka.headers import NO_RETRY, Retry
from onceproof.brokers.kafka.place import record_id
from onceproof.ports import Message


class State(StrEnum):
    """Where a record is."""

    WAITING = "waiting"
    READY = "ready"
    IN_HAND = "in_hand"


@dataclass(slots=True, eq=False)
class Record:
    """A record that was fetched. `deliveries` are those from this partition, `retry` has earlier ones.

    `visible_until` is on the clock of `time.monotonic()`.
    """

    offset: int
    key: bytes | None
    body: bytes
    attributes: dict[str, str]
    sent_at: datetime | None
    retry: Retry = NO_RETRY
    deliveries: int = 0
    state: State = State.WAITING
    receipt: str = ""
    visible_until: float = 0.0

    @property
    def attempt(self) -> int:
        """Deliveries in all."""
        return self.retry.deliveries + self.deliveries


@dataclass(eq=False)
class Partition:
    """A partition from its committed offset on.

    Args:
        topic: its topic.
        number: its number.
        committed: what the group committed, with the delivery counts from there on.
        epoch: tells this assignment from an earlier one, whose receipts are no longer valid.
    """

    topic: str
    number: int
    committed: Deliveries
    epoch: int = 0
    position: int = field(init=False)
    _high: int = field(init=False)
    _unsettled: dict[int, Record] = field(default_factory=dict)
    _lines: dict[bytes, deque[Record]] = field(default_factory=dict)
    _ready: list[int] = field(default_factory=list)
    _in_hand: dict[int, Record] = field(default_factory=dict)
    _settled_counts: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.position = self.committed.offset
        self._high = self.committed.high

    def __len__(self) -> int:
        return len(self._unsettled)

    @property
    def base(self) -> int:
        """The offset below which everything is settled."""
        return next(iter(self._unsettled), self.position)

    @property
    def out(self) -> int:
        """Records that were announced and not settled or given back."""
        return len(self._ready) + len(self._in_hand)

    @property
    def ready(self) -> int:
        """Records that may be handed out."""
        return len(self._ready)

    @property
    def in_hand(self) -> int:
        """Records that were handed out and not settled."""
        return len(self._in_hand)

    def fetched(self, record: Record) -> None:
        """Take a record; one that is here already, or that is settled, is ignored."""
        if record.offset < self.position:
            return
        record.deliveries = self.committed.of(record.offset)
        self.position = record.offset + 1
        self._unsettled[record.offset] = record
        if record.key is not None:
            self._lines.setdefault(record.key, deque()).append(record)

    def ended(self, offset: int) -> None:
        """There is nothing before this offset that was not fetched."""
        self.position = max(self.position, offset)

    def exhausted(self, deliveries: int, limit: int) -> list[Record]:
        """Records that wait although they were delivered so often."""
        found = (
            record
            for record in self._unsettled.values()
            if record.state is State.WAITING and record.attempt >= deliveries
        )
        return list(islice(found, limit))

    def due(self, now_s: float, limit: int) -> list[Record]:
        """Records that may be delivered next, the first of their keys; `now_s` since 1970."""
        found: list[Record] = []
        for record in self._unsettled.values():
            if len(found) >= limit:
                break
            waiting = record.state is State.WAITING and record.retry.not_before_s <= now_s
            if waiting and self._is_first(record):
                found.append(record)
        return found

    def deliveries(self, announced: Iterable[Record] = ()) -> Deliveries:
        """What to commit, if `announced` are about to be made ready."""
        more = {record.offset for record in announced}
        high = max((self._high, *(offset + 1 for offset in more)))
        # What was handed out by an owner before and was not fetched again yet, and what is settled.
        exceptions = {o: n for o, n in self.committed.exceptions.items() if o >= self.position}
        base = self.base
        self._settled_counts = {o: n for o, n in self._settled_counts.items() if o >= base}
        exceptions |= self._settled_counts
        for offset, record in self._unsettled.items():
            if offset >= high:  # in the order of their offsets: none of the rest was handed out
                break
            count = record.deliveries + (offset in more)
            if count != 1:
                exceptions[offset] = count
        return Deliveries(base, high, exceptions)

    def announced(self, records: Sequence[Record]) -> None:
        """The counts of these records are committed: they may be handed out."""
        for record in records:
            if record.state is not State.WAITING:
                continue
            record.deliveries += 1
            record.state = State.READY
            self._high = max(self._high, record.offset + 1)
            heapq.heappush(self._ready, record.offset)

    def withdraw(self) -> None:
        """What is ready is not going to be handed out, and was not delivered."""
        for offset in self._ready:
            record = self._unsettled[offset]
            record.state = State.WAITING
            record.deliveries -= 1
        self._ready.clear()

    def take(self, limit: int, visible_until: float) -> list[Message]:
        """Hand out up to `limit` ready records, the oldest first."""
        taken: list[Message] = []
        while self._ready and len(taken) < limit:
            record = self._unsettled[heapq.heappop(self._ready)]
            record.state = State.IN_HAND
            record.visible_until = visible_until
            record.receipt = (
                f"{self.topic}/{self.number}/{record.offset}/{self.epoch}.{record.deliveries}"
            )
            self._in_hand[record.offset] = record
            taken.append(self._message(record))
        return taken

    def id_of(self, record: Record) -> str:
        """What stands for the broker's id of a record; a retry is the same message as before."""
        return record.retry.message_id or record_id(self.topic, self.number, record.offset)

    def find(self, receipt: str) -> Record | None:
        """The record in hand with this receipt, if the receipt is still the valid one."""
        record = self._in_hand.get(int(receipt.split("/")[2]))
        return record if record is not None and record.receipt == receipt else None

    def settle(self, record: Record) -> None:
        """The record, in hand or waiting, is done, whatever became of it: never deliver it again."""
        if record.deliveries != 1:
            # It comes again after a crash, while something before it is open.
            self._settled_counts[record.offset] = record.deliveries
        self._in_hand.pop(record.offset, None)
        self._unsettled.pop(record.offset, None)
        if record.key is None:
            return
        line = self._lines[record.key]
        line.remove(record)
        if not line:
            del self._lines[record.key]

    def give_back(self, record: Record) -> None:
        """The record is no longer in hand and is to be delivered again."""
        if self._in_hand.pop(record.offset, None) is not None:
            record.state = State.WAITING

    def lapse(self, now: float) -> int:
        """Give back what was in hand for longer than its visibility; how many."""
        lapsed = [record for record in self._in_hand.values() if record.visible_until <= now]
        for record in lapsed:
            self.give_back(record)
        return len(lapsed)

    def _is_first(self, record: Record) -> bool:
        return record.key is None or self._lines[record.key][0] is record

    def _message(self, record: Record) -> Message:
        return Message(
            body=record.body,
            message_id=self.id_of(record),
            receipt=record.receipt,
            attempt=record.attempt,
            visible_until=record.visible_until,
            sent_at=record.sent_at,
            attributes=record.attributes,
        )
