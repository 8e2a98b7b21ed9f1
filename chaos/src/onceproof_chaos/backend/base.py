"""What the nemesis needs from whatever runs the services."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from onceproof_chaos.plan import Fault


class Role(StrEnum):
    """The parts of the pipeline."""

    PRODUCER = "producer"
    RELAY = "relay"
    CONSUMER = "consumer"
    PROVIDER = "provider"


@dataclass(frozen=True, slots=True)
class Instance:
    """One running service. A restart gives a new instance under the same name.

    Args:
        role: which service it is.
        name: e.g. `consumer-0`.
        pid: operating system's process id.
        admin_url: base URL of its admin port.
        http_url: base URL of its API, where it has one.
    """

    role: Role
    name: str
    pid: int
    admin_url: str
    http_url: str | None = None


class Backend(Protocol):
    """Starts, kills and restarts services, each armed from its first moment."""

    def instances(self, role: Role | None = None) -> Sequence[Instance]:
        """What runs now, of one role or all."""
        ...

    async def start(self, role: Role, name: str, armed: Sequence[Fault]) -> Instance:
        """Start a service and wait until it is ready.

        Raises:
            BackendError: it ended or did not get ready; the message says where its log is.
        """
        ...

    async def kill(self, instance: Instance) -> int:
        """End it without any chance to clean up; its exit code, negative for a signal."""
        ...

    async def died(self, instance: Instance) -> int:
        """Wait until it has ended, by whatever cause; its exit code."""
        ...

    async def stop(self) -> None:
        """Stop everything in an orderly way."""
        ...


class BackendError(Exception):
    """A service could not be started or has not become ready."""
