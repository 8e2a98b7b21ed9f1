"""How a relay works, in numbers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RelaySettings:
    """How a relay works.

    Args:
        batch_size: rows per claim. Several broker batches, so that their requests overlap.
        batches_in_flight: claimed batches that are sent and marked at the same time. A broker that
            takes nothing gets one at a time.
        lease_s: seconds for which claimed rows are ours. Must exceed the time until they are sent and
            marked, or another relay sends them again meanwhile. That is several times the broker's
            slowest answer, because all batches share the broker's requests in flight: a request of SQS
            takes 10 messages (fewer large ones) and 8 are in flight, so it is
            `batches_in_flight * batch_size / 80` times, rounded up: 5 by default. Then comes the mark,
            behind one that is under way.
        poll_s: seconds between looks at the whole table, for what nobody told of: rows that
            committed late, failed and are due again, or whose lease ended. The wake-up is an
            optimisation; this poll is what guarantees delivery. Where it takes long because very
            many events of one key wait, it is made less often.
        linger_s: longest pause in seconds that a relay which has sent everything makes when it is woken,
            so that rows gather which come in a steady stream: a request to the broker for ten at a
            time instead of one each. An event that comes alone does not wait. 0: never.
        backoff_s: first delay of a failed row in seconds; it doubles with each attempt.
        backoff_max_s: longest delay of a failed row.
        database_backoff_s: pause in seconds when the database is away, or when not one row of a full
            batch could be sent, which means that the broker is.
        system: `messaging.system` in spans.
    """

    batch_size: int = 100
    batches_in_flight: int = 4
    lease_s: float = 30.0
    poll_s: float = 1.0
    linger_s: float = 0.01
    backoff_s: float = 0.5
    backoff_max_s: float = 60.0
    database_backoff_s: float = 1.0
    system: str = "aws_sqs"
