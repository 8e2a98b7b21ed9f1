"""The producer's order write in pgbench, with and without the outbox row: what the row costs Postgres.

The statements are the producer's own, each a round trip as it makes them: BEGIN, the order with its
outbox row or alone, COMMIT.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from benchmarks.ceiling import Script, run_pgbench, transaction, with_values
from benchmarks.database import Database
from benchmarks.figures import InvalidRunError, Sample
from benchmarks.null_broker import order_event
from onceproof_producer.orders import _INSERT, _INSERT_AND_APPEND

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
        await self._where.connection.execute("TRUNCATE orders, onceproof.outbox")
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
    order = {"order_id": _ORDER_ID, "amount": "1999", "currency": "'EUR'", "event_id": _EVENT_ID}
    row = {
        "outbox_id": _EVENT_ID,
        "outbox_destination": "'orders'",
        "outbox_key": _ORDER_ID,
        "outbox_type": f"'{event.type}'",
        "outbox_payload": f"'{_without_colons(payload)}'",
        "outbox_traceparent": f"'{event.traceparent}'",
    }
    statement = (
        with_values(_INSERT_AND_APPEND, order | row) if outbox else with_values(_INSERT, order)
    )
    return _NEXT + transaction(statement)


def _without_colons(text: str) -> str:
    """Without what pgbench takes for variables, in strings as well; the length stays."""
    return text.replace(":", ";")
