"""Claim and effect in one statement: one round trip, and a transaction that no client can leave open.

What `claim` guarantees by its place in a transaction is here in the order of the parts:

- `onceproof_claimed` inserts in the order of the keys, and waits for a twin that is still working. A
  twin that commits leaves nothing here, one that rolls back leaves its turn.
- `events` is sorted, and a sort ends before its first row is read: every claim is made before the
  first effect. So two batches that overlap wait for each other at the inbox, in one order, and not
  half in each other's effects.
- The last `SELECT` names what was claimed; whoever is not named is a duplicate.

All parts see the database as it was when the statement began, as parts of one statement do. An UPDATE
sees the newest version of the row that it changes, because it locks it.

The parts have names that hide no table of the user's, but for `events`, which is the user's word for it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, Literal

Returns = Literal["event_id", "count"] | None
"""What an effect returns for an event: a row with its `event_id`, any row, or what it likes."""

_GIVEN: Final = """
WITH onceproof_given AS (
    SELECT * FROM unnest(
        CAST($2 AS text[]), CAST($3 AS jsonb[]), CAST($4 AS int[]), CAST($5 AS float8[])
    ) AS given (dedup_key, event, attempt, seconds)
)"""

_CLAIMED: Final = """, onceproof_claimed AS (
    INSERT INTO onceproof.inbox (consumer, event_id)
    SELECT CAST($1 AS text), dedup_key FROM onceproof_given ORDER BY dedup_key COLLATE "C"
    ON CONFLICT DO NOTHING
    RETURNING event_id AS dedup_key
)"""

# Without an inbox everything is claimed, which is what the naive variant shows.
_UNCLAIMED: Final = """, onceproof_claimed AS (
    SELECT dedup_key FROM onceproof_given WHERE CAST($1 AS text) IS NOT NULL
)"""

_EVENTS: Final = """, events AS (
    SELECT event->>'id' AS event_id, event->>'subject' AS key, event->>'type' AS type,
           event->'data' AS data, attempt, to_timestamp(seconds) AS time, event
    FROM {source}
    ORDER BY dedup_key COLLATE "C"
), onceproof_effect AS MATERIALIZED (
"""

# After a newline, because an effect may end with a remark. What the conditions ask is asked once, and of
# no events as well.
_END: Final = """
)
SELECT dedup_key FROM onceproof_claimed WHERE """

# Read, whatever it returns: what is a SELECT is not run otherwise, and in full because materialized.
_READ: Final = "(SELECT count(*) FROM onceproof_effect) IS NOT NULL"

# An error is the only way in which a statement can take itself back; its text is this cast's argument.
_SAME_COUNT: Final = """(
    SELECT CASE WHEN effect.n = claimed.n THEN true ELSE CAST(
        format('the effect returned %s rows for %s events', effect.n, claimed.n) AS boolean) END
    FROM (SELECT count(*) AS n FROM onceproof_effect) AS effect,
         (SELECT count(*) AS n FROM onceproof_claimed) AS claimed
)"""

# The ids side by side and in one order. The effect's is qualified: where it has none, a column of that
# name further out would be taken for it.
_EACH_ID: Final = """(
    SELECT CASE WHEN effect.ids = claimed.ids THEN true ELSE CAST(
        format('the effect returned %s rows for %s events%s',
            cardinality(effect.ids), cardinality(claimed.ids),
            CASE WHEN cardinality(effect.ids) = cardinality(claimed.ids)
                THEN ', but not one with the event_id of each' END
        ) AS boolean) END
    FROM (SELECT coalesce(array_agg(id ORDER BY id), '{}') AS ids FROM (
            SELECT CAST(onceproof_effect.event_id AS text) COLLATE "C" AS id FROM onceproof_effect
        ) AS ids) AS effect,
        (SELECT coalesce(array_agg(id ORDER BY id), '{}') AS ids FROM (
            SELECT dedup_key COLLATE "C" AS id FROM onceproof_claimed
        ) AS ids) AS claimed
)"""

_CONDITIONS: Final[Mapping[Returns, str]] = {
    "event_id": _EACH_ID,
    "count": _SAME_COUNT,
    None: _READ,
}

_MISCOUNT: Final = re.compile(
    r"the effect returned \d+ rows for \d+ events(, but not one with the event_id of each)?"
)
NO_EVENT_ID: Final = "onceproof_effect.event_id"
"""What Postgres misses where an effect should return `event_id`, and does not."""


def claim_with_effect(effect: str, *, inbox: bool, returns: Returns) -> str:
    """The statement that claims events and has the effect of those that are new.

    Its parameters: `$1` consumer, `$2` deduplication keys, `$3` events (CloudEvents as JSON text),
    `$4` delivery attempts, `$5` times of the events (Unix, in seconds); the arrays in the same order,
    with no key twice where there is an inbox.

    Args:
        effect: a statement that reads from `events` and returns rows.
        inbox: claim; without it every event has its effect.
        returns: fail unless the effect returns this for each event. `event_id` is for keys that are
            the events' ids.
    """
    claimed = _CLAIMED if inbox else _UNCLAIMED
    source = (
        "onceproof_given JOIN onceproof_claimed USING (dedup_key)" if inbox else "onceproof_given"
    )
    events = _EVENTS.format(source=source)
    end = f"{_END}{_CONDITIONS[returns]}\n"
    return f"{_GIVEN}{claimed}{events}{effect.strip().rstrip(';')}{end}".strip()


def miscount(error: Exception) -> str | None:
    """What a counted statement says when its effect did not return one row for each event."""
    found = _MISCOUNT.search(str(error))
    return found and found[0]
