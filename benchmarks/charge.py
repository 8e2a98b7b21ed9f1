"""The work of the consumers here: an effect in SQL that writes an order's charge."""

from __future__ import annotations

from typing import Final

from onceproof.consumer import SqlEffect

CHARGE: Final = SqlEffect("""
    INSERT INTO charges (order_id, event_id, amount, currency, provider_charge_id, delivery_attempt)
    SELECT data->>'order_id', event_id, CAST(data->>'amount' AS bigint), data->>'currency', event_id,
           attempt
    FROM events
    RETURNING event_id
""")
