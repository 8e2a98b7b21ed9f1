"""How a consumer works; each field with its unit and reason."""

from __future__ import annotations

from dataclasses import dataclass

from onceproof.errors import ConfigurationError
from onceproof.variants import HARDENED, Fixes


@dataclass(frozen=True, slots=True)
class ConsumerSettings:
    """Settings of one consumer.

    Args:
        name: identity under which events are claimed in the inbox. Two services that both must see an
            event need two names.
        concurrency: handlers at work at once; each holds a database connection.
        prefetch: messages received beyond those at work. Their visibility runs while they wait.
        batch_size: messages per transaction when a set-based handler is given.
        receives: receive requests in flight at most. More than one only while they come back full, so a
            quiet queue costs one long poll at a time.
        linger_s: seconds at most for which a steady stream is let gather before it is received, so that
            a request brings ten messages; a message that comes alone does not wait. 0 turns it off.
        wait_s: long poll in seconds; SQS allows 20.
        visibility_s: visibility timeout in seconds that is asked for on receive. Longer means fewer
            duplicates, shorter means faster recovery after a crash.
        heartbeat_s: seconds between extensions; None means a third of `visibility_s`, so that two may
            fail.
        handler_timeout_s: seconds after which a handler is cancelled and its transaction rolled back. An
            effect in SQL is bounded by its connections' `statement_timeout_s` instead.
        backoff_s: first delay before a failed message comes again; it doubles with each attempt.
        backoff_max_s: longest such delay.
        ack_linger_s: how long an ack of a steady stream may wait for company, in seconds; one that comes
            alone does not.
        drain_timeout_s: seconds for handlers to finish after a stop; a pod's grace period must be
            15 s longer at least, for the last requests to a broker that may be away.
        unavailable_backoff_s: pause in seconds when broker or database are away.
        system: `messaging.system` in spans.
        fixes: which fixes are on; anything but all of them is for showing why they are needed.
    """

    name: str
    concurrency: int = 10
    prefetch: int = 20
    batch_size: int = 10
    receives: int = 8
    linger_s: float = 0.01
    wait_s: float = 20.0
    visibility_s: float = 30.0
    heartbeat_s: float | None = None
    handler_timeout_s: float = 300.0
    backoff_s: float = 1.0
    backoff_max_s: float = 300.0
    ack_linger_s: float = 0.03
    drain_timeout_s: float = 20.0
    unavailable_backoff_s: float = 1.0
    system: str = "aws_sqs"
    fixes: Fixes = HARDENED

    def __post_init__(self) -> None:
        if not self.name:
            raise ConfigurationError("a consumer needs a name: events are claimed under it")
        if min(self.concurrency, self.batch_size, self.receives) < 1 or self.prefetch < 0:
            raise ConfigurationError(
                "concurrency, batch_size and receives start at 1, prefetch at 0"
            )
        if self.linger_s < 0:
            raise ConfigurationError("linger_s starts at 0")
        if not 0 <= self.wait_s <= 20:
            raise ConfigurationError("wait_s must be between 0 and 20 seconds (the limit of SQS)")
        if not 1 <= self.visibility_s <= 43200:
            raise ConfigurationError("visibility_s must be between 1 second and 12 hours")
        if self.heartbeat_s is not None and not 0 < self.heartbeat_s < self.visibility_s:
            raise ConfigurationError("heartbeat_s must be above 0 and below visibility_s")

    @property
    def heartbeat_interval_s(self) -> float:
        """Seconds between two extensions."""
        return self.heartbeat_s or self.visibility_s / 3
