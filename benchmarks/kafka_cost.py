"""What Kafka's guarantees cost: plain, idempotent, and transactional at several commit intervals.

Each run fills its time with records as fast as the client can, and counts those that a reader with
`read_committed` gets afterwards: neither fewer nor more. Then a slow stream tells how long a record
takes from `produce` to such a reader, which for a transaction is until its commit.
"""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import quantiles
from typing import Final
from uuid import uuid4

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from benchmarks.bench import Bench
from benchmarks.figures import InvalidRunError, Sample

_STREAM_PER_S: Final = 100
_STREAM_S: Final = 3.0
"""Longer than the longest commit interval."""
_TIMEOUT_S: Final = 30.0
_MAX_RECORDS: Final = 2_000_000
_CLOCK: Final = struct.Struct("d")


@dataclass(frozen=True, slots=True)
class Guarantee:
    """How records are sent.

    Args:
        name: for people.
        settings: of librdkafka.
        commit_s: commit interval of its transactions; None without them.
    """

    name: str
    settings: Mapping[str, object] = field(default_factory=dict)
    commit_s: float | None = None


PLAIN: Final = Guarantee("plain", {"enable.idempotence": False, "acks": 1})
IDEMPOTENT: Final = Guarantee("idempotent", {"enable.idempotence": True})
GUARANTEES: Final = (
    PLAIN,
    IDEMPOTENT,
    *(Guarantee(f"transactions of {ms} ms", {}, ms / 1000) for ms in (10, 100, 1000)),
)


class Sent:
    """One guarantee at one size of records.

    Args:
        at: how long a run takes.
        bootstrap: of the cluster.
        guarantee: how it sends.
        size: bytes of a record's value.
    """

    def __init__(self, at: Bench, bootstrap: str, guarantee: Guarantee, size: int) -> None:
        self.name = f"{guarantee.name}, {size} B"
        self._seconds = at.scale.seconds
        self._bootstrap = bootstrap
        self._guarantee = guarantee
        self._size = size

    async def prepare(self) -> None:
        """One short run."""
        await asyncio.to_thread(self._measure, 0.5, 0.5)

    async def measure(self, repeat: int) -> Sample:
        """One timed run; `repeat` changes nothing.

        Raises:
            InvalidRunError: a reader did not get each record once.
        """
        del repeat
        return await asyncio.to_thread(self._measure, self._seconds, _STREAM_S)

    def _measure(self, seconds: float, stream_s: float) -> Sample:
        producer = Producer(self._settings())
        if self._guarantee.commit_s is not None:
            producer.init_transactions(_TIMEOUT_S)
        with self._topic() as topic:
            cpu, started = time.process_time(), time.perf_counter()
            records = self._fill(producer, topic, seconds)
            taken, cpu = time.perf_counter() - started, time.process_time() - cpu
            self._require_each(topic, records)
            latencies = self._stream(producer, topic, stream_s)
        producer.close()
        cuts = quantiles(latencies, n=100)
        values = {"visible_p50_ms": cuts[49] * 1000, "visible_p99_ms": cuts[98] * 1000}
        return Sample(records, taken, cpu, 0, values=values)

    def _settings(self) -> dict[str, object]:
        transactional = self._guarantee.commit_s is not None
        return {
            "bootstrap.servers": self._bootstrap,
            "linger.ms": 5,
            "batch.size": 131_072,
            "queue.buffering.max.messages": 200_000,
            "delivery.report.only.error": True,
            "error_cb": _raise,
            **({"transactional.id": f"cost-{uuid4().hex}"} if transactional else {}),
            **self._guarantee.settings,
        }

    def _fill(self, producer: Producer, topic: str, seconds: float) -> int:
        """As many records as there is time for, to the last confirmation or commit."""
        body = bytes(self._size)
        ends = time.perf_counter() + seconds
        records = 0
        with self._transactions(producer) as tick:
            while time.perf_counter() < ends and records < _MAX_RECORDS:
                try:
                    for _ in range(100):
                        producer.produce(topic, body)
                        records += 1
                except BufferError:
                    producer.poll(0.01)
                tick()
        return records

    @contextmanager
    def _transactions(self, producer: Producer) -> Iterator[_Tick]:
        """Begin, commit when `tick` finds the interval over, commit at the end; or only flush."""
        tick = _Tick(producer, self._guarantee.commit_s)
        yield tick
        tick.end()

    def _stream(self, producer: Producer, topic: str, seconds: float) -> list[float]:
        """Seconds from `produce` until a reader had each of a slow stream of records."""
        reader = self._reader(topic, beginning=False)
        padding = bytes(max(self._size - _CLOCK.size, 0))
        latencies: list[float] = []
        wanted = int(_STREAM_PER_S * seconds)
        with self._transactions(producer) as tick:
            began = time.perf_counter()
            for number in range(wanted):
                while (wait := began + number / _STREAM_PER_S - time.perf_counter()) > 0:
                    latencies += _seen(reader, min(wait, 0.002))
                    tick()
                producer.produce(topic, _CLOCK.pack(time.perf_counter()) + padding)
                producer.poll(0)
        deadline = time.monotonic() + _TIMEOUT_S
        while len(latencies) < wanted and time.monotonic() < deadline:
            latencies += _seen(reader, 0.01)
        reader.close()
        if len(latencies) != wanted:
            raise InvalidRunError(f"{wanted} records of the slow stream gave {len(latencies)}")
        return latencies

    def _require_each(self, topic: str, records: int) -> None:
        reader = self._reader(topic, beginning=True)
        seen, deadline, ended = 0, time.monotonic() + 4 * _TIMEOUT_S, False
        while not ended and time.monotonic() < deadline:
            for message in reader.consume(10_000, 0.2):
                error = message.error()
                if error is None:
                    seen += 1
                elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - the client's own code
                    ended = True
                else:
                    raise InvalidRunError(str(error))
        reader.close()
        if seen != records:
            raise InvalidRunError(f"{records} records were sent, a reader has {seen}")

    def _reader(self, topic: str, *, beginning: bool) -> Consumer:
        reader = Consumer(
            {
                "bootstrap.servers": self._bootstrap,
                "group.id": f"cost-{uuid4().hex}",
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "enable.partition.eof": beginning,
                "fetch.wait.max.ms": 5,
            }
        )
        place = TopicPartition(topic, 0)
        _, high = reader.get_watermark_offsets(place, _TIMEOUT_S)
        place.offset = OFFSET_BEGINNING if beginning else high
        reader.assign([place])
        return reader

    @contextmanager
    def _topic(self) -> Iterator[str]:
        name = f"cost-{uuid4().hex}"
        admin = AdminClient({"bootstrap.servers": self._bootstrap})
        admin.create_topics([NewTopic(name, 1, 1)])[name].result(_TIMEOUT_S)
        try:
            yield name
        finally:
            admin.delete_topics([name])[name].result(_TIMEOUT_S)


class _Tick:
    """Commits whenever the interval is over; without an interval it does nothing until the end."""

    def __init__(self, producer: Producer, commit_s: float | None) -> None:
        self._producer = producer
        self._commit_s = commit_s
        if commit_s is not None:
            producer.begin_transaction()
        self._since = time.perf_counter()

    def __call__(self) -> None:
        if self._commit_s is not None and time.perf_counter() - self._since >= self._commit_s:
            self._producer.commit_transaction(_TIMEOUT_S)
            self._producer.begin_transaction()
            self._since = time.perf_counter()

    def end(self) -> None:
        if self._commit_s is not None:
            self._producer.commit_transaction(_TIMEOUT_S)
        if left := self._producer.flush(_TIMEOUT_S):
            raise InvalidRunError(f"{left} records were not confirmed")


def _seen(reader: Consumer, timeout_s: float) -> list[float]:
    message = reader.poll(timeout_s)
    found = [] if message is None else [message, *reader.consume(100, 0)]
    now = time.perf_counter()
    return [
        now - _CLOCK.unpack((m.value() or b"")[: _CLOCK.size])[0] for m in found if not m.error()
    ]


def _raise(error: KafkaError) -> None:
    if error.fatal():
        raise InvalidRunError(str(error))
