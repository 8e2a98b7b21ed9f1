"""Claim and effect in one statement: one round trip, and a transaction that no client can leave open.

What `claim` guarantees by its place in a transaction is here in the order of the parts:

- `claimed` inserts in the order of the keys, and waits for a twin that is still working. A twin that
  commits leaves nothing here, one that rolls back leaves its turn.
- `events` is sorted, and a sort ends before its first row is read: every claim is made before the
  first effect. So two batches that overlap wait for each other at the inbox, in one order, and not
  half in each other's effects.
- The last `SELECT` names what was claimed; whoever is not named is a duplicate.

All parts see the database as it was when the statement began, as parts of one statement do. An UPDATE
sees the newest version of the row that it changes, because it locks it.
"""

from __future__ import annotations

import re
from typing import Final

_GIVEN: Final = """
WITH given AS (
    SELECT * FROM unnest(CAST($2 AS text[]), CAST($3 AS jsonb[]), CAST($4 AS int[]))
        AS given (dedup_key, event, attempt)
)"""

_CLAIMED: Final = """, claimed AS (
    INSERT INTO onceproof.inbox (consumer, event_id)
    SELECT CAST($1 AS text), dedup_key FROM given ORDER BY dedup_key COLLATE "C"
    ON CONFLICT DO NOTHING
    RETURNING event_id AS dedup_key
)"""

# Without an inbox everything is claimed, which is what the naive variant shows.
_UNCLAIMED: Final = """, claimed AS (
    SELECT dedup_key FROM given WHERE CAST($1 AS text) IS NOT NULL
)"""

_EVENTS: Final = """, events AS (
    SELECT event->>'id' AS event_id, event->>'subject' AS key, event->>'type' AS type,
           event->'data' AS data, attempt, CAST(event->>'time' AS timestamptz) AS time, event
    FROM {source}
    ORDER BY dedup_key COLLATE "C"
), effect AS (
"""

# An error is the only way in which a statement can take itself back; its text is this cast's argument.
_COUNTED: Final = """
)
SELECT dedup_key FROM claimed WHERE CASE
    WHEN (SELECT count(*) FROM effect) = (SELECT count(*) FROM claimed) THEN true
    ELSE CAST(format('the effect returned %s rows for %s events',
        (SELECT count(*) FROM effect), (SELECT count(*) FROM claimed)) AS boolean) END
"""

_UNCOUNTED: Final = """
)
SELECT dedup_key FROM claimed WHERE (SELECT count(*) FROM effect) IS NOT NULL
"""

_MISCOUNT: Final = re.compile(r"the effect returned \d+ rows for \d+ events")


def claim_with_effect(effect: str, *, inbox: bool, counted: bool) -> str:
    """The statement that claims events and has the effect of those that are new.

    Its parameters: `$1` consumer, `$2` deduplication keys, `$3` events (CloudEvents as JSON text),
    `$4` delivery attempts; the arrays in the same order, with no key twice where there is an inbox.

    Args:
        effect: a statement that reads from `events` and returns rows.
        inbox: claim; without it every event has its effect.
        counted: fail unless the effect returns one row for each event.
    """
    claimed = _CLAIMED if inbox else _UNCLAIMED
    events = _EVENTS.format(source="given JOIN claimed USING (dedup_key)" if inbox else "given")
    end = _COUNTED if counted else _UNCOUNTED
    return f"{_GIVEN}{claimed}{events}{effect.strip().rstrip(';')}{end}".strip()


def miscount(error: Exception) -> str | None:
    """What a counted statement says when its effect did not return one row for each event."""
    found = _MISCOUNT.search(str(error))
    return found and found[0]
