"""The theory: what each variant must suffer under each fault, cell by cell, with the argument.

Written before anything is measured, and printed into the docs beside it. No cell is left to chance:
orders are placed one at a time, so a fault meets nobody but the order that it was meant for.

What to know to follow it: a redelivery is the same message again, under the same message id; an outbox
row that is sent twice is two messages with one event id. The inbox row is in the handler's transaction
and is rolled back with it; the provider's capture is in another system and is not.
"""

from __future__ import annotations

from typing import Final

from onceproof.crashpoints import (
    CONSUMER_AFTER_CHARGE,
    CONSUMER_AFTER_COMMIT,
    CONSUMER_BEFORE_CHARGE,
    PRODUCER_AFTER_COMMIT,
    RELAY_AFTER_PUBLISH,
    RELAY_BEFORE_PUBLISH,
)
from onceproof_chaos.ablation.faults import (
    DROPPED,
    KILLS,
    NONE,
    PROVIDER_TIMEOUT,
    SLOW,
    STALLS,
    UNKNOWN,
)
from onceproof_chaos.ablation.prediction import Prediction, claim, tabulate
from onceproof_chaos.verdict import BreachKind

_NAIVE: Final = "naive"
_HARDENED: Final = "hardened"
_NO_OUTBOX: Final = "hardened-outbox"
_NO_INBOX: Final = "hardened-inbox"
_NO_KEY: Final = "hardened-idempotency_key"
_NO_HEARTBEAT: Final = "hardened-visibility_heartbeat"
_NO_EVENT_ID: Final = "hardened-dedup_on_event_id"
_TRANSACTIONS: Final = "transactions"
# Written out: a fix that is new here must be thought about, and not inherit what is said of others.
_ALL: Final = (
    _NAIVE, _HARDENED, _NO_OUTBOX, _NO_INBOX, _NO_KEY, _NO_HEARTBEAT, _NO_EVENT_ID, _TRANSACTIONS,
)  # fmt: skip


def _but(*without: str) -> tuple[str, ...]:
    return tuple(variant for variant in _ALL if variant not in without)


_WITHOUT_OUTBOX: Final = (_NAIVE, _NO_OUTBOX)
_WITH_OUTBOX: Final = _but(*_WITHOUT_OUTBOX)
_WITH_INBOX: Final = _but(_NAIVE, _NO_INBOX, _TRANSACTIONS)
_WITHOUT_KEY: Final = (_NAIVE, _NO_KEY, _TRANSACTIONS)
_WITH_KEY: Final = _but(*_WITHOUT_KEY)

_LOST: Final = BreachKind.LOST
_DOUBLE: Final = BreachKind.DOUBLE_CHARGED
_MISMATCHED: Final = BreachKind.MISMATCHED

_REPLAY: Final = (
    "The provider recognises the Idempotency-Key and captures nothing new, but without the inbox nobody "
    "stops the second row in the charges table: one capture, booked twice."
)
_BOUNDARY: Final = (
    "Kafka's transaction ends at Kafka: it covers the records and the offsets of the stage, and neither "
    "the provider nor Postgres. Two captures, two rows."
)

_DUAL_WRITE: Final = (
    claim(NONE.name, _ALL, again=False, because=(
        "Nothing is injected, so every order is sent, delivered and charged once by every variant. What "
        "breaks here is the measurement."
    )),
    claim(KILLS[PRODUCER_AFTER_COMMIT].name, _WITH_OUTBOX, again=False, because=(
        "The event was committed with its order: the relay sends it although its producer is dead."
    )),
    claim(KILLS[PRODUCER_AFTER_COMMIT].name, _WITHOUT_OUTBOX, _LOST, again=False, because=(
        "The order is committed and its event was only in the memory of the process that died. The "
        "client repeats its request, gets the stored 201, and nobody ever sends the event."
    )),
    claim(KILLS[RELAY_BEFORE_PUBLISH].name, _WITH_OUTBOX, again=False, because=(
        "The claimed row stays in the outbox, and is sent when the dead relay's lease has ended."
    )),
    claim(KILLS[RELAY_BEFORE_PUBLISH].name, _WITHOUT_OUTBOX, _LOST, again=False, because=(
        "The producer itself is about to publish and dies: committed, promised, never sent."
    )),
    claim(DROPPED.name, _WITH_OUTBOX, again=False, because=(
        "The row stays pending with its error, and the next attempt sends it."
    )),
    claim(DROPPED.name, _WITHOUT_OUTBOX, _LOST, again=False, because=(
        "The publish fails after the commit. To try again later, the event would have to be stored."
    )),
)  # fmt: skip

_DUPLICATE_PUBLISH: Final = tuple(
    made
    for fault in (KILLS[RELAY_AFTER_PUBLISH].name, UNKNOWN.name)
    for made in (
        claim(fault, (_HARDENED, _NO_KEY, _NO_HEARTBEAT), again=True, because=(
            "Sent but not marked as sent, so the row is sent again: another message, the same event id, "
            "which the inbox knows already."
        )),
        claim(fault, (_NO_INBOX,), _MISMATCHED, again=True, because=(
            f"Two messages, both handled. {_REPLAY}"
        )),
        claim(fault, (_NO_EVENT_ID,), _DOUBLE, again=True, because=(
            "Two messages with two message ids are two different payments to the inbox and, because the "
            "Idempotency-Key is made of the same id, to the provider."
        )),
        claim(fault, (_TRANSACTIONS,), _DOUBLE, again=True, because=(
            "The idempotent producer knows its own retries by their sequence numbers. What a second "
            "relay sends is another record, which the stage moves, exactly once in itself. "
            f"{_BOUNDARY}"
        )),
        claim(fault, _WITHOUT_OUTBOX, again=False, because=(
            "Without an outbox nothing is ever sent again: the one message is out, and is handled once. "
            "Copies are what the outbox costs, and the inbox pays for them."
        )),
    )
)  # fmt: skip

_LEG_1: Final = (
    claim(KILLS[CONSUMER_BEFORE_CHARGE].name, _ALL, again=True, because=(
        "Nothing was done yet: the message is visible again after its timeout, and its second delivery "
        "is the first to charge. At-least-once delivery closes this without any fix."
    )),
    claim(KILLS[CONSUMER_AFTER_CHARGE].name, _WITH_KEY, again=True, because=(
        "The transaction is rolled back, the capture is not. The redelivery, the same message with the "
        "same ids, repeats the request under the same Idempotency-Key and gets the first capture back."
    )),
    claim(KILLS[CONSUMER_AFTER_CHARGE].name, _WITHOUT_KEY, _DOUBLE, _MISMATCHED, again=True, because=(
        "The inbox row was rolled back with the transaction and cannot know about the capture: the "
        "redelivery captures again, and the first capture is in no row of ours."
    )),
    claim(PROVIDER_TIMEOUT.name, _WITH_KEY, again=True, because=(
        "Captured, but the answer is lost: the handler fails, and its next attempt under the same "
        "Idempotency-Key gets the capture that it missed."
    )),
    claim(PROVIDER_TIMEOUT.name, _WITHOUT_KEY, _DOUBLE, _MISMATCHED, again=True, because=(
        "Captured, but the answer is lost: the handler fails, rolls back, and its next attempt captures "
        "again. The first capture is in no row of ours."
    )),
)  # fmt: skip

_LEG_3: Final = (
    claim(KILLS[CONSUMER_AFTER_COMMIT].name, _WITH_INBOX, again=True, because=(
        "Committed, but not acked: the redelivery hits its own inbox row, is rolled back, and acked."
    )),
    claim(KILLS[CONSUMER_AFTER_COMMIT].name, (_NO_INBOX,), _MISMATCHED, again=True, because=(
        f"The redelivery is handled once more. {_REPLAY}"
    )),
    claim(KILLS[CONSUMER_AFTER_COMMIT].name, (_NAIVE,), _DOUBLE, again=True, because=(
        "The redelivery is handled once more: a second capture and a second row. Both ledgers agree, "
        "and the customer has paid twice."
    )),
    claim(KILLS[CONSUMER_AFTER_COMMIT].name, (_TRANSACTIONS,), _DOUBLE, again=True, because=(
        "Committed in Postgres, and the offset is not committed in Kafka: the record is handled once "
        f"more. {_BOUNDARY}"
    )),
)  # fmt: skip

_TIMEOUT: Final = (
    claim(STALLS[CONSUMER_BEFORE_CHARGE].name, _WITH_INBOX, again=True, because=(
        "The heartbeat stands still with its process, so a successor gets the message and commits. The "
        "zombie wakes, hits the successor's inbox row, and does nothing."
    )),
    claim(STALLS[CONSUMER_BEFORE_CHARGE].name, (_NO_INBOX,), _MISMATCHED, again=True, because=(
        f"A successor charges, and the zombie after it. {_REPLAY}"
    )),
    claim(STALLS[CONSUMER_BEFORE_CHARGE].name, (_NAIVE, _TRANSACTIONS), _DOUBLE, again=True, because=(
        "A successor charges, and the zombie after it: two captures, two rows."
    )),
    claim(STALLS[CONSUMER_AFTER_CHARGE].name, _WITH_INBOX, again=True, because=(
        "The zombie's transaction holds the inbox row: the successor waits at its unique key, before "
        "any charge, until the zombie commits, and is then a duplicate."
    )),
    claim(STALLS[CONSUMER_AFTER_CHARGE].name, (_NO_INBOX,), _MISMATCHED, again=True, because=(
        f"Nothing makes the successor wait; it commits, and so does the zombie. {_REPLAY}"
    )),
    claim(STALLS[CONSUMER_AFTER_CHARGE].name, (_NAIVE, _TRANSACTIONS), _DOUBLE, again=True, because=(
        "Nothing makes the successor wait: it captures and commits, and the zombie commits its own "
        "capture. Two captures, two rows."
    )),
    claim(STALLS[CONSUMER_AFTER_COMMIT].name, _WITH_INBOX, again=True, because=(
        "The zombie has committed, its ack comes too late: the successor hits the inbox row."
    )),
    claim(STALLS[CONSUMER_AFTER_COMMIT].name, (_NO_INBOX,), _MISMATCHED, again=True, because=(
        f"The successor handles what the zombie has committed already. {_REPLAY}"
    )),
    claim(STALLS[CONSUMER_AFTER_COMMIT].name, (_NAIVE, _TRANSACTIONS), _DOUBLE, again=True, because=(
        "The successor handles what the zombie has committed already: two captures, two rows."
    )),
    claim(SLOW.name, _but(_NAIVE, _NO_HEARTBEAT), again=False, because=(
        "The handler works longer than the visibility timeout, but it works: the heartbeat goes on "
        "extending it, and nobody else is given the message."
    )),
    claim(SLOW.name, (_NO_HEARTBEAT,), again=True, because=(
        "The message lapses while its handler is still working, and comes again. The second delivery "
        "waits at the inbox's unique key and is a duplicate: no money moves, but deliveries, "
        "connections and attempts before the DLQ are spent on nothing. The heartbeat saves work; it is "
        "no fence."
    )),
    claim(SLOW.name, (_NAIVE,), _DOUBLE, again=True, because=(
        "The message lapses while its handler is still working, and a second handler charges beside it."
    )),
)  # fmt: skip

TABLE: Final = tabulate((*_DUAL_WRITE, *_DUPLICATE_PUBLISH, *_LEG_1, *_LEG_3, *_TIMEOUT))
"""The prediction for every cell."""


def predict(variant: str, fault: str) -> Prediction:
    """What theory says about a cell.

    Raises:
        KeyError: there is no such cell.
    """
    return TABLE[variant, fault]


__all__ = ["TABLE", "predict"]
