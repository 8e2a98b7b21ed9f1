"""One exception tree for the library; drivers' errors are translated where the driver is used.

Two branches steer retries: a `PermanentError` never gets better (the message goes to the DLQ, the
request gets a 4xx), a `TransientError` is worth another attempt. Whatever else a handler raises is
treated as transient, because a bug that is fixed by the next deployment must not cost a message.
"""

from __future__ import annotations


class OnceproofError(Exception):
    """Base of everything that the library raises on purpose."""


class PermanentError(OnceproofError):
    """Trying again cannot help. The message is moved to the dead-letter queue with this reason."""


class MalformedEventError(PermanentError):
    """The bytes are not a CloudEvents 1.0 JSON object."""


class EventTooLargeError(PermanentError):
    """The encoded event exceeds what a broker accepts, so it must not enter the outbox."""


class TransientError(OnceproofError):
    """Another attempt may succeed.

    Args:
        message: what went wrong.
        retry_after_s: seconds until an attempt makes sense; None leaves it to the backoff.
    """

    def __init__(self, message: str = "", *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class DatabaseUnavailableError(TransientError):
    """The database cannot be reached, or it ended the connection in the middle."""


class BrokerUnavailableError(TransientError):
    """The broker cannot be reached, or it answered with a failure of its own."""


class OutcomeUnknownError(TransientError):
    """The reply was lost: the call is neither done nor undone, and the redelivery decides."""


class InjectedDropError(TransientError):
    """Raised by an armed crash point with the action `drop`."""


class ConfigurationError(OnceproofError):
    """A start-up check failed. The message says what to do about it."""


class SchemaBehindError(ConfigurationError):
    """The database schema is older than the code; run `onceproof schema upgrade`."""


class QueueNotFoundError(ConfigurationError):
    """The queue or topic does not exist."""


class DedupWindowError(ConfigurationError):
    """The inbox forgets an event while a queue can still deliver it again."""
