"""The transactional outbox: an event is committed with the change that it reports, and sent later."""

from onceproof.outbox.append import append
from onceproof.outbox.cleanup import delete_published
from onceproof.outbox.intake import Intake
from onceproof.outbox.relay import Relay
from onceproof.outbox.settings import RelaySettings
from onceproof.outbox.store import OutboxRow, OutboxStore, RowResult
from onceproof.outbox.wakeup import Listener, Waker
from onceproof.outbox.write import NothingDoneError, SqlWrite

__all__ = [
    "Intake",
    "Listener",
    "NothingDoneError",
    "OutboxRow",
    "OutboxStore",
    "Relay",
    "RelaySettings",
    "RowResult",
    "SqlWrite",
    "Waker",
    "append",
    "delete_published",
]
