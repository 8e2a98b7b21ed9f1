"""How often each record was delivered, kept where a crash cannot lose it: with the committed offset.

Kafka counts no deliveries, and whoever wants to give up on a poisonous record, or tell a redelivery
from a first delivery, needs to know. An offset is committed with up to 4096 bytes of metadata. Before
records are handed out, their counts are written there, with the offset unchanged; the next owner of the
partition reads them. One commit for each batch that is fetched.

    1;250;3:2,17:4

Version; records from the offset on that were handed out (the 250 from the offset on); those of them
that were handed out more or less often than once, each by its distance from the offset.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

_VERSION: Final = "1"
MAX_CHARS: Final = 4000
"""Below the broker's `offset.metadata.max.bytes`, which is 4096 by default."""


@dataclass(frozen=True, slots=True)
class Deliveries:
    """Of the records from `offset` on, those before `high` were handed out, once unless told."""

    offset: int
    high: int
    exceptions: Mapping[int, int] = field(default_factory=dict)

    def of(self, offset: int) -> int:
        """How often the record at an offset was handed out."""
        if offset in self.exceptions:
            return self.exceptions[offset]
        return 1 if self.offset <= offset < self.high else 0

    def encode(self) -> str:
        """The metadata to commit with `offset`. What does not fit is left out, highest offset first."""
        text = f"{_VERSION};{max(self.high - self.offset, 0)};"
        entries = []
        size = len(text)
        for offset in sorted(self.exceptions):
            entry = f"{offset - self.offset}:{self.exceptions[offset]}"
            size += len(entry) + 1
            if size > MAX_CHARS:
                break
            entries.append(entry)
        return text + ",".join(entries)

    @classmethod
    def decode(cls, offset: int, metadata: str | None) -> Deliveries:
        """From what was committed with `offset`; nothing is known where it was not written by us."""
        try:
            version, handed_out, listed = (metadata or "").split(";")
            if version != _VERSION:
                return cls(offset, offset)
            pairs = (pair.split(":") for pair in listed.split(",") if pair)
            exceptions = {offset + int(distance): int(count) for distance, count in pairs}
            return cls(offset, offset + int(handed_out), exceptions)
        except ValueError:
            return cls(offset, offset)
