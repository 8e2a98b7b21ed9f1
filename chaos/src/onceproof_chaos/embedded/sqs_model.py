"""moto's queue and message, with the rule about receipts and the costs put right.

moto walks all messages of a queue three times for every message that it sends or receives, to fill
in counts that nobody asked for, and twice for every one that it deletes. With a thousand messages
waiting, a batch takes a tenth of a second. Here the counts are made for those who ask.
"""

from __future__ import annotations

from functools import cache
from typing import ClassVar

from moto.core.utils import camelcase_to_underscores, unix_time_millis
from moto.sqs import models
from moto.sqs.exceptions import ReceiptHandleIsInvalid


class LatestHandleMessage(models.Message):
    """A message that only the handle of its latest delivery settles."""

    def had_receipt_handle(self, receipt_handle: str) -> bool:
        """Whether this is the handle of the latest delivery."""
        return self.receipt_handle == receipt_handle


class EmbeddedQueue(models.Queue):
    """A queue whose calls cost little beside thousands of waiting messages."""

    counting: ClassVar[bool] = False
    """Whether the request at hand asks for message counts; see `SerialisedSqs`."""

    @property
    def messages(self) -> list[models.Message]:
        """Messages that can be received now."""
        now = unix_time_millis()
        return [m for m in self._messages if m.visible_at < now and m.delayed_until <= now]

    @property
    def approximate_number_of_messages(self) -> int:
        """How many can be received, where it was asked."""
        return len(self.messages) if self.counting else 0

    @property
    def approximate_number_of_messages_not_visible(self) -> int:
        """How many are in flight, where it was asked."""
        now = unix_time_millis()
        return sum(m.visible_at >= now for m in self._messages) if self.counting else 0

    @property
    def approximate_number_of_messages_delayed(self) -> int:
        """How many are delayed, where it was asked."""
        now = unix_time_millis()
        return sum(m.delayed_until > now for m in self._messages) if self.counting else 0

    def delete_message(self, receipt_handle: str) -> None:
        """Delete the message of this handle; a second time is no error."""
        if receipt_handle in self.deleted_messages:
            return
        for index, message in enumerate(self._messages):
            if message.receipt_handle == receipt_handle:
                del self._messages[index]
                self._pending_messages.discard(message)
                self.deleted_messages.add(receipt_handle)
                return
        raise ReceiptHandleIsInvalid

    def release_lapsed_groups(self) -> None:
        """Release the FIFO groups whose messages lapsed.

        moto does so in the middle of a receive: the first message of a group is passed over because
        the second one is still counted as pending, and the second one is then delivered first.
        """
        if self.fifo_queue:
            now = unix_time_millis()
            self._pending_messages = {m for m in self._pending_messages if m.visible_at >= now}

    def has_message(self) -> bool:
        """Whether a receive is worth trying."""
        return bool(self.messages)

    def stored(self) -> int:
        """How many messages there are in any state."""
        return len(self._messages)

    def next_change_s(self) -> float:
        """Seconds until a hidden or delayed message becomes visible; infinity when there is none."""
        now = unix_time_millis()
        moments = (max(m.visible_at, m.delayed_until) for m in self._messages)
        # moto calls a message visible only after its moment: hence the two milliseconds.
        return min((m - now for m in moments if m >= now), default=float("inf")) / 1000 + 0.002


def install() -> None:
    """Make moto use these classes in this process."""
    models.Message = LatestHandleMessage  # type: ignore[misc]
    models.Queue = EmbeddedQueue  # type: ignore[misc]
    # A pure function that takes half of the time of a receive.
    models.camelcase_to_underscores = cache(camelcase_to_underscores)  # type: ignore[attr-defined]
