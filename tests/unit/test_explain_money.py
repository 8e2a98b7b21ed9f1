"""The last sentence: how often the money moved, who moved it, and what stopped the others."""

from __future__ import annotations

from dataclasses import replace

from onceproof_chaos.evidence import (
    CaptureRow,
    ChargeRow,
    DeadLetterRow,
    Evidence,
    InboxRow,
    OrderRow,
    OutboxRow,
)
from onceproof_chaos.explain import Index, Reason, Records, explain_order
from onceproof_chaos.spans import Span

ORDER, EVENT = "o-1", "event-1"


def handled(attempt: int, outcome: str, at: float, message: str = "message-1") -> Span:
    return Span(
        "process", "t", f"{message}-{attempt}", at, at + 1, service="consumer", instance=f"c-{attempt}",
        attributes={
            "messaging.operation.type": "process", "messaging.message.id": message,
            "onceproof.event.id": EVENT, "onceproof.order.id": ORDER,
            "onceproof.delivery.attempt": attempt, "onceproof.outcome": outcome,
        },
    )  # fmt: skip


def capture(number: int, at: float, key: str | None = EVENT) -> CaptureRow:
    return CaptureRow(f"capture-{number}", ORDER, 100, "EUR", key, at)


def charge(attempt: int, at: float, of: int = 1) -> ChargeRow:
    return ChargeRow(attempt, ORDER, EVENT, 100, "EUR", f"capture-{of}", attempt, at)


PLACED = OrderRow(ORDER, 100, "EUR", EVENT, 1.0)
INBOX = InboxRow("payments", EVENT, 20.0)


def money(spans: list[Span], records: Records | None = None, **rows: object) -> str:
    evidence = replace(Evidence(orders=(PLACED,)), **rows)  # type: ignore[arg-type]
    known = replace(records or Records(), spans=spans, rows=evidence)
    return explain_order(Index(known), ORDER).money


def test_one_delivery_one_capture() -> None:
    assert money(
        [handled(1, "processed", 10)], captures=(capture(1, 10.5),), charges=(charge(1, 10.4),)
    ) == "The money moved once: delivery 1 captured it."  # fmt: skip


def test_the_idempotency_key_carried_the_second_one() -> None:
    text = money(
        [handled(1, "retried", 10), handled(2, "processed", 20)],
        captures=(capture(1, 10.5),),
        charges=(charge(2, 20.4),),
    )
    assert "delivery 1 captured it and delivery 2 sent the same Idempotency-Key" in text


def test_the_inbox_stopped_the_others() -> None:
    text = money(
        [handled(1, "processed", 10), handled(2, "duplicate", 20)],
        captures=(capture(1, 10.5),),
        charges=(charge(1, 10.4),),
        inbox=(INBOX,),
    )
    assert text == "The money moved once: delivery 1 captured it and the inbox stopped delivery 2."


def test_it_was_luck() -> None:
    text = money(
        [handled(1, "retried", 10), handled(2, "processed", 20)],
        captures=(capture(1, 20.5, None),),
        charges=(charge(2, 20.4),),
    )
    assert text.endswith("delivery 2 captured it and no other delivery got as far as the charge.")


def test_twice_without_a_key() -> None:
    text = money(
        [handled(1, "processed", 10), handled(2, "processed", 20)],
        captures=(capture(1, 10.5, None), capture(2, 20.5, None)),
        charges=(charge(1, 10.4), charge(2, 20.4, 2)),
    )
    assert text.startswith("The money moved twice: delivery 1 made capture")
    assert "delivery 2 made capture" in text
    assert "no inbox row stood in the way" in text
    assert "without an Idempotency-Key" in text


def test_twice_because_it_was_messages_that_the_inbox_knew() -> None:
    text = money(
        [handled(1, "processed", 10), handled(1, "processed", 20, "message-2")],
        captures=(capture(1, 10.5, "message-1"), capture(2, 20.5, "message-2")),
        inbox=(InboxRow("payments", "message-1", 10.9), InboxRow("payments", "message-2", 20.9)),
    )
    assert "delivery 1 of message message-2 made capture" in text
    assert "the inbox knew messages" in text
    assert "an Idempotency-Key of its own" in text


def test_two_that_were_at_work_together_are_both_named() -> None:
    text = money(
        [handled(1, "retried", 10), handled(2, "retried", 10.2)], captures=(capture(1, 10.5),)
    )
    assert "delivery 1 or delivery 2 captured it" in text
    assert "no row of the charges table records it" in text


def test_no_money_and_why() -> None:
    outbox = OutboxRow(EVENT, ORDER, "t", 3, "refused", None, 1.0, None)
    letter = DeadLetterRow("m", "{}", 5, "not chargeable", ORDER, EVENT)
    assert "dead-letter queue (not chargeable)" in money([], dlq=(letter,))
    assert "waits in the outbox after 3 attempt(s), last error: refused" in money(
        [], outbox=(outbox,)
    )
    assert "no delivery of its event" in money([handled(1, "retried", 10)])
    assert "nobody is known to have sent its event" in money([])


def test_a_charge_without_a_capture_is_said_to_be_one() -> None:
    """The books are wrong, or this is the ledger of another provider."""
    text = money([handled(1, "processed", 10)], charges=(charge(1, 10.4),))
    assert text.startswith("The ledgers disagree: the charges table has 1 row(s)")


def test_without_the_ledger_it_cannot_be_said() -> None:
    text = money([], Records(has_ledger=False), charges=(charge(1, 10.4),))
    assert text.startswith("How often the money moved cannot be said")
    assert "1 row(s)" in text


def redeliveries(spans: list[Span], *charges: ChargeRow) -> list[tuple[int, Reason]]:
    rows = Evidence(orders=(PLACED,), charges=charges)
    explained = explain_order(Index(Records(spans=spans, rows=rows)), ORDER)
    assert all(e.missing for e in explained.redeliveries)
    return [(e.attempt, e.reason) for e in explained.redeliveries]


def test_a_redelivery_that_only_a_row_tells_of_is_unknown() -> None:
    """A trace store that has forgotten, or did not sample, must not look like an undisturbed order."""
    assert redeliveries([], charge(1, 10.0)) == []
    assert redeliveries([], charge(3, 30.0)) == [(2, Reason.UNKNOWN), (3, Reason.UNKNOWN)]
    first = handled(1, "retried", 10)
    assert redeliveries([first], charge(2, 20.0)) == [(2, Reason.UNKNOWN)]
    assert redeliveries([handled(1, "processed", 10)], charge(1, 11.0)) == []
