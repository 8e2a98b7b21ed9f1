"""Both ledgers, read with psql in the Postgres pod: nothing of the operator is in between."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from tests.e2e.cluster import Cluster

_READINGS = 3

_PIPELINE = """
    SELECT json_build_object(
        'orders', (SELECT coalesce(json_agg(o), '[]') FROM orders o WHERE order_id = '{order}'),
        'charges', (SELECT coalesce(json_agg(c ORDER BY c.id), '[]') FROM charges c
                    WHERE order_id = '{order}'),
        'outbox', (SELECT coalesce(json_agg(b), '[]') FROM (
                   SELECT *, published_at IS NOT NULL OR EXISTS (
                       SELECT FROM onceproof.outbox_slots
                       WHERE seq > from_seq AND seq <= confirmed_seq) AS sent
                   FROM onceproof.outbox WHERE key = '{order}') b),
        'inbox', (SELECT coalesce(json_agg(i), '[]') FROM onceproof.inbox i
                  WHERE event_id IN (SELECT event_id FROM orders WHERE order_id = '{order}')))
"""
_PROVIDER = """
    SELECT coalesce(json_agg(json_build_object(
        'id', id, 'order_id', order_id, 'amount', amount, 'idempotency_key', idempotency_key,
        'created_at', created_at)), '[]')
    FROM captures WHERE order_id = '{order}'
"""
# Of all orders whose id begins with a prefix. `double` is the ledger's: more than one capture.
_ACCEPTED = "SELECT coalesce(json_agg(order_id), '[]') FROM orders WHERE order_id LIKE '{prefix}%'"
_CAPTURED = """
    SELECT coalesce(json_object_agg(order_id, n), '{{}}') FROM (
        SELECT order_id, count(*) AS n FROM {table} WHERE order_id LIKE '{prefix}%' GROUP BY 1) t
"""


@dataclass(frozen=True)
class Rows:
    """All rows about one order."""

    orders: list[dict[str, Any]]
    charges: list[dict[str, Any]]
    captures: list[dict[str, Any]]
    outbox: list[dict[str, Any]]
    inbox: list[dict[str, Any]]


@dataclass(frozen=True)
class Totals:
    """Orders in the database, and how often each was captured and charged."""

    orders: frozenset[str]
    captures: dict[str, int]
    charges: dict[str, int]

    @property
    def never_captured(self) -> set[str]:
        """Orders that are in the database and not in the provider's ledger."""
        return set(self.orders - self.captures.keys())

    @property
    def captured_twice(self) -> set[str]:
        """Orders with more than one capture."""
        return {order for order, count in self.captures.items() if count > 1}


@dataclass(frozen=True)
class Ledgers:
    """SQL on the embedded Postgres."""

    cluster: Cluster
    pod: str

    def of_order(self, order: str) -> Rows:
        """All rows about one order."""
        pipeline = self.query("onceproof", _PIPELINE.format(order=order))
        captures = self.query("provider", _PROVIDER.format(order=order))
        return Rows(captures=captures, **pipeline)

    def totals(self, prefix: str) -> Totals:
        """Counts of all orders whose id begins with `prefix`."""
        counts = {
            table: self.query(database, _CAPTURED.format(table=table, prefix=prefix))
            for table, database in (("captures", "provider"), ("charges", "onceproof"))
        }
        orders = self.query("onceproof", _ACCEPTED.format(prefix=prefix))
        return Totals(frozenset(orders), counts["captures"], counts["charges"])

    def query(self, database: str, sql: str) -> Any:
        """The JSON that a statement gives, run as the database's owner, who is called the same.

        The connection of a `kubectl exec` can end before all of the output has come, with exit code 0
        (seen on a busy machine). JSON tells whether it is whole, and reading again changes nothing.
        """
        words = ("psql", "-U", database, "-d", database, "-qAtX", "-v", "ON_ERROR_STOP=1", "-c")
        output = ""
        for _ in range(_READINGS):
            output = self.cluster.kubectl("exec", self.pod, "--", *words, sql)
            with suppress(json.JSONDecodeError):
                return json.loads(output)
        raise AssertionError(f"no whole answer in {_READINGS} readings, the last one: {output!r}")
