"""The transactional outbox: an event is committed with the change that it reports, and sent later."""

from onceproof.outbox.append import append, appended_with, outbox_parameters
from onceproof.outbox.cleanup import delete_published
from onceproof.outbox.relay import Relay
from onceproof.outbox.settings import RelaySettings
from onceproof.outbox.store import OutboxRow, OutboxStore, RowResult
from onceproof.outbox.wakeup import Listener, Waker

__all__ = [
    "Listener",
    "OutboxRow",
    "OutboxStore",
    "Relay",
    "RelaySettings",
    "RowResult",
    "Waker",
    "append",
    "appended_with",
    "delete_published",
    "outbox_parameters",
]
