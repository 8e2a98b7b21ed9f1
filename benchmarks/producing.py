"""The producer's order write in pgbench, with and without the outbox row: what the row costs Postgres.

The statement is the producer's own: idempotency key, order, outbox row and answer in one round trip.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from benchmarks.ceiling import Script, run_pgbench, with_arguments
from benchmarks.database import Database
from benchmarks.figures import InvalidRunError, Sample
from benchmarks.null_broker import order_event
from onceproof.outbox.intake import accept
from onceproof_producer.orders import PLACE

_NEXT: Final = "\\set i :i + 1\n\\set n :client_id * 1000000000 + :i\n"
_ORDER_ID: Final = "'o-' || lpad(CAST(:n AS text), 12, '0')"
_EVENT_ID: Final = "'01930000-0000-7000-8000-' || lpad(CAST(:n AS text), 12, '0')"


class OrderWrite:
    """The write in pgbench.

    Args:
        where: the database.
        pgbench: the program.
        clients: connections.
        outbox: with the outbox row.
    """

    def __init__(self, where: Database, pgbench: Path, *, clients: int, outbox: bool) -> None:
        self._where = where
        self._pgbench = pgbench
        self._clients = clients
        self._outbox = outbox

    async def measure(self, seconds: int) -> Sample:
        """Write orders for `seconds`; `values` has the mean latency of a transaction in ms.

        Raises:
            InvalidRunError: an order has no outbox row, or a row no order.
        """
        await self._where.connection.execute(
            "TRUNCATE orders, onceproof.outbox, onceproof.idempotency_keys"
        )
        await self._where.settle("orders", "onceproof.outbox")
        done = await run_pgbench(
            self._pgbench, self._where, [Script(_script(outbox=self._outbox))],
            clients=self._clients, limit=["-T", str(seconds)], variables={"i": 0},
        )  # fmt: skip
        found = await self._where.counts(
            "SELECT (SELECT count(*) FROM orders) AS orders, "
            "(SELECT count(*) FROM onceproof.outbox) AS events"
        )
        if found["events"] != (found["orders"] if self._outbox else 0):
            raise InvalidRunError(f"{found['orders']} orders have {found['events']} outbox rows")
        latency_ms = self._clients * done.seconds / done.transactions * 1000
        return Sample(
            found["orders"], done.seconds, done.cpu_s, done.transactions,
            values={"latency_ms": latency_ms},
        )  # fmt: skip


def _script(*, outbox: bool) -> str:
    event = order_event(0)
    payload = event.encode().decode().replace("'", "''")
    event_values = [
        _EVENT_ID, _ORDER_ID, f"'{event.type}'", f"'{payload}'", f"'{event.traceparent}'", "'orders'",
    ]  # fmt: skip
    key_values = [":n", "'POST /orders'", _ORDER_ID, "'\\x00'", "201", "'{}'", f"'{payload}'"]
    statement = accept(PLACE, append=outbox)
    return f"{_NEXT}{with_arguments(statement, [*event_values, *key_values])};\n"
