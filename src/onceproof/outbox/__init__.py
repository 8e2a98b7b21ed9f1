"""The transactional outbox: an event is committed with the change that it reports, and sent later."""

from onceproof.outbox.append import append
from onceproof.outbox.cleanup import delete_published
from onceproof.outbox.intake import Intake
from onceproof.outbox.reconcile import Gap, Reconciled, Reconciler
from onceproof.outbox.relay import Relay
from onceproof.outbox.settings import RelaySettings
from onceproof.outbox.slot import Slot, SlotState, SlotStatus
from onceproof.outbox.store import OutboxRow, OutboxStore, RowResult
from onceproof.outbox.wakeup import Listener, Waker
from onceproof.outbox.write import NothingDoneError, SqlWrite

__all__ = [
    "Gap",
    "Intake",
    "Listener",
    "NothingDoneError",
    "OutboxRow",
    "OutboxStore",
    "Reconciled",
    "Reconciler",
    "Relay",
    "RelaySettings",
    "RowResult",
    "Slot",
    "SlotState",
    "SlotStatus",
    "SqlWrite",
    "Waker",
    "append",
    "delete_published",
]
