"""Reserves stock once for each order, in SQL: claim, reservation and commit are one statement.

Two tables are written, so the effect calls a function (in `schema.sql`), once for each order.
"""

from __future__ import annotations

from onceproof.consumer import SqlEffect

EFFECT = SqlEffect("SELECT event_id, reserve(data) FROM events")
