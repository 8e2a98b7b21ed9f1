"""Take dead letters back: look at them without taking them away, and redrive them without losing one.

The core knows no broker: it works on `DeadLetters`, which `open_dead_letters` makes from a subscriber
and a publisher of any broker with visibility timeouts.
"""

from onceproof.dlq.audit import AuditLog, AuditLogError, open_audit_log, read_trail
from onceproof.dlq.held import HeldDeadLetters, open_dead_letters
from onceproof.dlq.inbox import Inbox
from onceproof.dlq.judge import Fate, Horizon, Judge, Judged
from onceproof.dlq.letter import Letter
from onceproof.dlq.plan import Forecast, Only, RedriveSettings, check_settings, forecast
from onceproof.dlq.port import DeadLetters
from onceproof.dlq.redrive import CAME_AGAIN, Redrive, Summary
from onceproof.dlq.snapshot import (
    IncompleteSnapshotError,
    Snapshot,
    SnapshotError,
    write_snapshot,
)
from onceproof.dlq.survey import Survey, find, sample, survey
from onceproof.dlq.sweep import Sweep
from onceproof.dlq.trail import Record, Step, Trail

__all__ = [
    "CAME_AGAIN",
    "AuditLog",
    "AuditLogError",
    "DeadLetters",
    "Fate",
    "Forecast",
    "HeldDeadLetters",
    "Horizon",
    "Inbox",
    "IncompleteSnapshotError",
    "Judge",
    "Judged",
    "Letter",
    "Only",
    "Record",
    "Redrive",
    "RedriveSettings",
    "Snapshot",
    "SnapshotError",
    "Step",
    "Summary",
    "Survey",
    "Sweep",
    "Trail",
    "check_settings",
    "find",
    "forecast",
    "open_audit_log",
    "open_dead_letters",
    "read_trail",
    "sample",
    "survey",
    "write_snapshot",
]
