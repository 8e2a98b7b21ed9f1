"""What each crash must lead to, in each variant: the table that the drills are held against.

Written down by thinking about the pipeline, not by asking the operator, so that the two can disagree.
"""

from __future__ import annotations

from dataclasses import dataclass

from onceproof.crashpoints import (
    CONSUMER_AFTER_CHARGE,
    CONSUMER_AFTER_COMMIT,
    CONSUMER_BEFORE_CHARGE,
    CRASH_POINTS,
    PRODUCER_AFTER_COMMIT,
    PROVIDER_AFTER_CAPTURE,
    RELAY_AFTER_PUBLISH,
    RELAY_BEFORE_PUBLISH,
)

VARIANTS = ("hardened", "naive")
CASES = (
    *((point, action) for point in CRASH_POINTS for action in ("kill", "stall", "drop")),
    (PROVIDER_AFTER_CAPTURE, "drop"),
)


@dataclass(frozen=True)
class Expected:
    """What becomes of an order that meets a fault.

    Args:
        captures: rows in the provider's ledger.
        charges: rows in the charges table.
        messages: messages on the broker under which its event was handled; None: not looked at.
        attempts: delivery attempts that were handled to an outcome; those above the highest are
            allowed too, because a poll of a dead consumer may take a message with it.
        hit: whether the inbox must have recognised a duplicate; when False, it must not.
        redelivered: whether it was handled after the fault; None: either.
    """

    captures: int = 1
    charges: int = 1
    messages: int | None = 1
    attempts: frozenset[int] = frozenset({1})
    hit: bool = False
    redelivered: bool | None = True

    @property
    def kept(self) -> bool:
        """Whether the order was charged once."""
        return self.captures == self.charges == 1

    @property
    def verdict(self) -> str:
        """The drill's."""
        return "pass" if self.kept else "fail"

    @property
    def broken(self) -> set[str]:
        """Checks of the drill that must not be ok."""
        counts = {"captures": self.captures, "charges": self.charges}
        return {name for name, count in counts.items() if count != 1}


def _again(*attempts: int, hit: bool = False, captures: int = 1, charges: int = 1) -> Expected:
    """The same message comes again."""
    return Expected(captures, charges, attempts=frozenset(attempts), hit=hit)


_ONCE = Expected()
_TWO_MESSAGES = Expected(messages=2, hit=True)
_LOST = Expected(captures=0, charges=0, messages=0, attempts=frozenset(), redelivered=False)
_EITHER = Expected(redelivered=None)  # sent before the fault, and perhaps handled before it too

_HARDENED = {
    PRODUCER_AFTER_COMMIT: {"kill": _ONCE, "stall": _ONCE, "drop": _ONCE},
    # A relay that stalls past its lease sends what another one sent meanwhile.
    RELAY_BEFORE_PUBLISH: {"kill": _ONCE, "stall": _TWO_MESSAGES, "drop": _ONCE},
    RELAY_AFTER_PUBLISH: {"kill": _TWO_MESSAGES, "stall": _TWO_MESSAGES, "drop": _TWO_MESSAGES},
    # A killed delivery has no span of its own; a zombie's ends late, as attempt 1.
    CONSUMER_BEFORE_CHARGE: {
        "kill": _again(2), "stall": _again(1, 2, hit=True), "drop": _again(1, 2),
    },
    CONSUMER_AFTER_CHARGE: {
        "kill": _again(2), "stall": _again(1, 2, hit=True), "drop": _again(1, 2),
    },
    CONSUMER_AFTER_COMMIT: {
        "kill": _again(2, hit=True),
        "stall": _again(1, 2, hit=True),
        "drop": _again(1, 2, hit=True),
    },
    PROVIDER_AFTER_CAPTURE: {"drop": _again(1, 2)},
}  # fmt: skip
# Debezium is the one reader of its slot: nobody sends instead of a relay that stalls.
_OVER_CDC = {
    RELAY_BEFORE_PUBLISH: {"kill": _ONCE, "stall": _ONCE, "drop": _ONCE},
    RELAY_AFTER_PUBLISH: {"kill": _TWO_MESSAGES, "stall": _ONCE, "drop": _TWO_MESSAGES},
}
_NAIVE = {
    PRODUCER_AFTER_COMMIT: {"kill": _LOST, "stall": _ONCE, "drop": _LOST},
    RELAY_BEFORE_PUBLISH: {"kill": _LOST, "stall": _ONCE, "drop": _LOST},
    RELAY_AFTER_PUBLISH: {"kill": _EITHER, "stall": _EITHER, "drop": _EITHER},
    CONSUMER_BEFORE_CHARGE: {
        "kill": _again(2), "stall": _again(1, 2, captures=2, charges=2), "drop": _again(1, 2),
    },
    # What was captured stays captured when the transaction that would have told of it is rolled back.
    CONSUMER_AFTER_CHARGE: {
        "kill": _again(2, captures=2),
        "stall": _again(1, 2, captures=2, charges=2),
        "drop": _again(1, 2, captures=2),
    },
    CONSUMER_AFTER_COMMIT: {
        "kill": _again(2, captures=2, charges=2),
        "stall": _again(1, 2, captures=2, charges=2),
        "drop": _again(1, 2, captures=2, charges=2),
    },
    PROVIDER_AFTER_CAPTURE: {"drop": _again(1, 2, captures=2)},
}  # fmt: skip


def expected(variant: str, point: str, action: str, relay: str = "polling") -> Expected:
    """What must become of an order."""
    if variant == "naive":
        return _NAIVE[point][action]
    return (_HARDENED | (_OVER_CDC if relay == "cdc" else {}))[point][action]


def component(variant: str, point: str) -> str:
    """Whose pods pass a crash point: without the outbox the producer publishes itself."""
    role = point.partition(".")[0]
    return "producer" if role == "relay" and variant == "naive" else role
