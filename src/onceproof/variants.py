"""Variants: one pipeline, each fix a switch.

`naive` has every fix off, `hardened` has every fix on, and an ablation such as `hardened-inbox` is
hardened minus the named fix. The same code runs for all of them. `transactions` is for Kafka: a stage in
transactions, and a consumer behind it without inbox and Idempotency-Key.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Final

from onceproof.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Fixes:
    """Which fixes are on.

    Args:
        outbox: publish through the outbox instead of after the commit.
        inbox: claim the event in the handler's transaction before anything else.
        idempotency_key: send an Idempotency-Key to the payment provider.
        visibility_heartbeat: extend the visibility of messages in work.
        dedup_on_event_id: deduplicate on the event's id, not on the broker's message id.
    """

    outbox: bool = True
    inbox: bool = True
    idempotency_key: bool = True
    visibility_heartbeat: bool = True
    dedup_on_event_id: bool = True

    def as_dict(self) -> dict[str, bool]:
        """Fix name to switch."""
        return asdict(self)


FIX_NAMES: Final = tuple(f.name for f in fields(Fixes))
HARDENED: Final = Fixes()
NAIVE: Final = Fixes(**dict.fromkeys(FIX_NAMES, False))
TRANSACTIONS: Final = Fixes(inbox=False, idempotency_key=False)
"""What remains where somebody trusts that Kafka's transactions reach into the database."""


def parse_variant(name: str) -> Fixes:
    """The fixes of `naive`, `transactions`, `hardened` or `hardened-<fix>`.

    Raises:
        ConfigurationError: the name is none of these.
    """
    if name == "hardened":
        return HARDENED
    if name == "naive":
        return NAIVE
    if name == "transactions":
        return TRANSACTIONS
    base, _, removed = name.partition("-")
    if base == "hardened" and removed in FIX_NAMES:
        return replace(HARDENED, **{removed: False})
    ablations = ", ".join(f"hardened-{fix}" for fix in FIX_NAMES)
    raise ConfigurationError(
        f"unknown variant {name!r}: use naive, transactions, hardened or one of {ablations}"
    )
