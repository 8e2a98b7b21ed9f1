"""The relay by change data capture: Debezium ends, the slot is lost, and the way to polling and back."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.e2e.cluster import CommandError
from tests.e2e.installation import RELEASE, Installation
from tests.e2e.load import load
from tests.e2e.orders import place
from tests.e2e.proxy import ask
from tests.e2e.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ORDERS = 800
RATE_PER_S = 4.0
POSTGRES = f"{RELEASE}-postgres-0"
_REFUSED = "ERROR:  onceproof: replication slot onceproof_outbox is lost"
_SLOTS = "SELECT coalesce(json_agg(slot_name), '[]') FROM pg_replication_slots"
_LOSE = """
    SELECT pg_terminate_backend(active_pid, 5000), pg_drop_replication_slot(slot_name)
    FROM pg_replication_slots
"""


@pytest.fixture(autouse=True, scope="module")
def _only_hardened_cdc(variant: str, relay: str):
    if (variant, relay) != ("hardened", "cdc"):
        pytest.skip("it is about change data capture, and naive has no outbox")


def charged(installation: Installation, order: str) -> bool:
    rows = installation.ledgers.of_order(order)
    return (len(rows.captures), len(rows.charges)) == (1, 1)


def slots(installation: Installation) -> list[str]:
    return list(installation.ledgers.query("onceproof", _SLOTS))


def placed(installation: Installation, stem: str) -> str:
    order = installation.fresh(stem)
    place(installation.producer, order)
    return order


def test_debezium_that_ends_is_started_again(settled: Installation):
    cluster = settled.cluster
    [before] = cluster.pods("relay")
    cluster.kubectl("exec", before.name, "--container=debezium", "--", "sh", "-c", "kill 1")

    def restarted() -> bool:
        [pod] = cluster.pods("relay")
        assert pod.uid == before.uid
        return pod.restarts == before.restarts + 1

    until(60, "another Debezium", restarted)
    order = placed(settled, "after-its-end")
    until(60, f"{order} charged", lambda: charged(settled, order))


def lose_the_slot(installation: Installation) -> None:
    """As a failover does, or somebody who wants the disk back."""
    words = ("psql", "-U", "postgres", "-d", "onceproof", "-qAtX", "-v", "ON_ERROR_STOP=1", "-c")

    def dropped() -> bool:
        try:
            installation.cluster.kubectl("exec", POSTGRES, "--", *words, _LOSE)
        except CommandError:  # its reader was back at once
            return False
        return not slots(installation)

    until(30, "no slot", dropped)


def test_a_lost_slot_is_told_and_the_next_revision_sends_what_it_had_not(settled: Installation):
    [relay] = settled.cluster.pods("relay")
    lose_the_slot(settled)
    ready = f"{settled.proxy.admin(relay.name)}/readyz"
    until(30, "a reason at /readyz", lambda: "is lost" in ask(ready).body)
    order = placed(settled, "while-it-is-lost")
    # Debezium tries again all the time, is refused, and makes no slot of its own.
    until(60, "Debezium refused", lambda: _REFUSED in settled.cluster.kubectl("logs", POSTGRES))
    assert slots(settled) == []
    [row] = settled.ledgers.of_order(order).outbox
    assert (row["published_at"], row["sent"]) == (None, False)

    settled.upgrade()
    until(30, f"{order} charged", lambda: charged(settled, order))
    settled.settled()
    order = placed(settled, "afterwards")
    until(60, f"{order} charged", lambda: charged(settled, order))


def test_to_polling_and_back_while_orders_flow(settled: Installation, runs: Path):
    with load(settled, runs, orders=ORDERS, rate_per_s=RATE_PER_S) as orders:
        settled.upgrade("--set", "relay.kind=polling")
        assert slots(settled) == []
        assert len([pod for pod in settled.cluster.pods("relay") if not pod.leaving]) == 2
        settled.upgrade("--set", "relay.kind=cdc")
        assert len(slots(settled)) == 1
        assert not orders.ended(), "the load ended before the relays were changed"
        orders.charged_once(within_s=240)
    settled.settled()
    [relay] = settled.cluster.pods("relay")
    assert relay.restarts == 0
