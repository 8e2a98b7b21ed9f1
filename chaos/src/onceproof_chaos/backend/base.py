"""What the nemesis needs from whatever runs the services."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

from onceproof_chaos.plan import Fault


class Role(StrEnum):
    """The parts of the pipeline."""

    PRODUCER = "producer"
    RELAY = "relay"
    CONSUMER = "consumer"
    PROVIDER = "provider"
    STAGE = "stage"


PIPELINE: Final = (Role.PRODUCER, Role.RELAY, Role.CONSUMER, Role.PROVIDER)
"""The parts that every pipeline has; the stage is only in one with Kafka's transactions."""


@dataclass(frozen=True, slots=True)
class Instance:
    """One running service. A restart gives a new instance, under the same name where names last.

    Args:
        role: which service it is.
        name: e.g. `consumer-0`, or the pod's.
        pid: operating system's process id; 0 where it is not known, as in a pod.
        admin_url: base URL of its admin port.
        http_url: base URL of its API, where it has one.
        uid: what tells it from its predecessors and successors, e.g. a pod's uid.
    """

    role: Role
    name: str
    pid: int
    admin_url: str
    http_url: str | None = None
    uid: str = ""


class Backend(Protocol):
    """Starts, kills and restarts services, each armed from its first moment."""

    def instances(self, role: Role | None = None) -> Sequence[Instance]:
        """What runs now, of one role or all."""
        ...

    async def start(self, role: Role, name: str, armed: Sequence[Fault]) -> Instance:
        """Start a service and wait until it is ready; take over what runs already, where pods do.

        The instance may have another name: who replaces a pod does not name the new one. Other
        services go on being watched meanwhile, so this may take its time.

        Raises:
            BackendError: it ended or did not get ready; the message says where its log is.
        """
        ...

    async def kill(self, instance: Instance) -> int:
        """End it without any chance to clean up; its exit code, negative for a signal.

        -SIGKILL (-9) says that this call ended it, and nothing else did. A backend that cannot prove
        that, e.g. because the pod was gone before, must return another code: such an end counts
        as one that nobody planned.
        """
        ...

    async def died(self, instance: Instance) -> int:
        """Wait until it has ended, by whatever cause; its exit code."""
        ...

    async def stop(self) -> None:
        """Stop everything in an orderly way."""
        ...


class BackendError(Exception):
    """A service could not be started or has not become ready."""
