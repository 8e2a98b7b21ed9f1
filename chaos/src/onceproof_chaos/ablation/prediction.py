"""What theory says about a cell, and the table that must say it about every one of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from onceproof.variants import FIX_NAMES
from onceproof_chaos.ablation.faults import FAULTS
from onceproof_chaos.settings import TRANSACTIONS
from onceproof_chaos.verdict import BreachKind

VARIANTS: Final = ("naive", "hardened", *(f"hardened-{fix}" for fix in FIX_NAMES))
"""The rows: all fixes off, all on, all but one."""
ALL_VARIANTS: Final = (*VARIANTS, TRANSACTIONS)
"""With the one that only Kafka has: a stage in transactions, and neither inbox nor Idempotency-Key."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """What must be measured, and why.

    Args:
        breaches: kinds of breach of an order that the fault strikes; of no other order.
        comes_again: whether an event is delivered more than once, under whatever message id. It is no
            breach, but the leg that the heartbeat closes shows in nothing else.
        reason: the argument, in a sentence or two.
    """

    breaches: frozenset[BreachKind]
    comes_again: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Claim:
    """One argument, and the cells that it is about: `variants` under one fault."""

    fault: str
    variants: tuple[str, ...]
    prediction: Prediction


Table = Mapping[tuple[str, str], Prediction]
"""By variant and fault."""


def claim(
    fault: str,
    variants: Iterable[str],
    *breaches: BreachKind,
    again: bool,
    because: str,
) -> Claim:
    """A claim in one call; without breaches it says that the promise holds."""
    return Claim(fault, tuple(variants), Prediction(frozenset(breaches), again, because))


def tabulate(claims: Iterable[Claim]) -> Table:
    """The table of all claims.

    Raises:
        ValueError: a cell is claimed twice, by nobody, or there is no such cell. A theory with holes
            would agree with anything that is measured there.
    """
    cells = {(variant, fault) for variant in ALL_VARIANTS for fault in FAULTS}
    table: dict[tuple[str, str], Prediction] = {}
    for made in claims:
        for variant in made.variants:
            cell = (variant, made.fault)
            if cell not in cells:
                raise ValueError(f"no such cell: {variant} under {made.fault}")
            if cell in table:
                raise ValueError(f"two predictions for {variant} under {made.fault}")
            table[cell] = made.prediction
    missing = sorted(cells - table.keys())
    if missing:
        variant, fault = missing[0]
        raise ValueError(f"{len(missing)} cells without a prediction, e.g. {variant} under {fault}")
    return table


__all__ = ["ALL_VARIANTS", "VARIANTS", "Claim", "Prediction", "Table", "claim", "tabulate"]
