"""The status of a custom resource as a report: conditions with a reason, and what is known by now.

A status is written as a whole after each step. It is also the operator's only memory: a new operator
pod goes on from what stands here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Literal

State = Literal["True", "False", "Unknown"]
Write = Callable[[dict[str, Any]], Awaitable[None]]


def timestamp(unix_s: float | None = None) -> str:
    """Unix time in seconds, or now, as Kubernetes writes it, with microseconds."""
    moment = datetime.now(UTC) if unix_s is None else datetime.fromtimestamp(unix_s, UTC)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def unix(text: str) -> float:
    """The reverse of `timestamp`."""
    return datetime.fromisoformat(text).timestamp()


class Status:
    """The status of one object.

    Args:
        stored: what the object's status holds already.
        write: changes the stored status by a merge patch.
    """

    def __init__(self, stored: Mapping[str, Any] | None, write: Write) -> None:
        self._fields: dict[str, Any] = dict(stored or {})
        self._written = dict(self._fields)
        self._removed: set[str] = set()
        self._write = write
        self._writing = asyncio.Lock()

    def __getitem__(self, name: str) -> Any:  # noqa: ANN401 - a status field is any JSON type
        return self._fields[name]

    def get(self, name: str, default: Any = None) -> Any:  # noqa: ANN401 - as above
        """A field, or the default."""
        return self._fields.get(name, default)

    def condition(self, kind: str) -> Mapping[str, Any]:
        """A condition, empty when it was never set."""
        return next((c for c in self._conditions() if c["type"] == kind), {})

    def holds(self, kind: str) -> bool:
        """Whether a condition is true."""
        return self.condition(kind).get("status") == "True"

    def says(self, kind: str, state: State, reason: str, message: str) -> bool:
        """Whether a condition reads exactly so."""
        now = self.condition(kind)
        return (now.get("status"), now.get("reason"), now.get("message")) == (
            state,
            reason,
            message,
        )

    def set(self, **fields: Any) -> None:  # noqa: ANN401 - as above
        """Change fields; None removes one. Nothing is written yet."""
        for name, value in fields.items():
            if value is not None:
                self._fields[name] = value
                self._removed.discard(name)
            elif self._fields.pop(name, None) is not None:
                self._removed.add(name)

    def set_condition(self, kind: str, state: State, reason: str, message: str) -> bool:
        """Change a condition; whether it is different now. Nothing is written yet."""
        if self.says(kind, state, reason, message):
            return False
        old = self.condition(kind)
        since = old["lastTransitionTime"] if old.get("status") == state else timestamp()
        new = {
            "type": kind,
            "status": state,
            "reason": reason,
            "message": message,
            "lastTransitionTime": since,
        }
        conditions = self._conditions()
        if old:
            conditions[conditions.index(dict(old))] = new
        else:
            conditions.append(new)
        self._fields["conditions"] = conditions
        return True

    async def report(
        self,
        kind: str,
        state: State,
        reason: str,
        message: str,
        **fields: Any,  # noqa: ANN401
    ) -> None:
        """Set a condition and fields, and write the status unless it stands so already."""
        self.set(**fields)
        self.set_condition(kind, state, reason, message)
        self.set(message=message)
        if self._fields != self._written:
            await self.write()

    async def write(self) -> None:
        """Write the status; one write after the other, so that an older one never comes last."""
        async with self._writing:
            fields = dict(self._fields)
            # A merge patch removes only what it names.
            await self._write(dict.fromkeys(self._removed) | fields)
            self._written = fields

    def _conditions(self) -> list[dict[str, Any]]:
        return list(self._fields.get("conditions", ()))
