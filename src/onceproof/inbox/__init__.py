"""The inbox: an event is claimed, first thing, in the transaction that holds its effect."""

from onceproof.inbox.claim import claim, claim_many
from onceproof.inbox.retention import delete_processed
from onceproof.inbox.window import DedupWindow, check_dedup_window

__all__ = ["DedupWindow", "check_dedup_window", "claim", "claim_many", "delete_processed"]
