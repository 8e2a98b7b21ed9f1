"""The broker that all cells of a matrix run over, and which variants there are on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Self

from onceproof_chaos.ablation.prediction import ALL_VARIANTS, VARIANTS
from onceproof_chaos.settings import KAFKA, SQS, broker_words, check_transactions


@dataclass(frozen=True, slots=True)
class Basis:
    """What the cells of a matrix have in common.

    Args:
        broker: sqs or kafka.
        transactions: a stage in Kafka transactions stands between relay and consumer, in each variant.
    """

    broker: str = SQS
    transactions: bool = False

    def __post_init__(self) -> None:
        check_transactions(self.broker, transactions=self.transactions)

    @property
    def variants(self) -> tuple[str, ...]:
        """The variants that there are."""
        return ALL_VARIANTS if self.broker == KAFKA else VARIANTS

    @property
    def words(self) -> list[str]:
        """Of a command line."""
        return broker_words(self.broker, transactions=self.transactions)

    def as_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """What `as_json` gave; of a folder that is older than brokers, SQS."""
        return cls(str(document.get("broker", SQS)), bool(document.get("transactions", False)))


OVER_SQS: Final = Basis()

__all__ = ["OVER_SQS", "Basis"]
