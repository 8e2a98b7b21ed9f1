"""The admin port of a service, seen from outside: arm crash points, and wait until one is reached.

The same port answers for a local process and for a pod, so nothing here knows which one it talks to.
A service that is gone and one that has chaos switched off are different errors: the first is what a
nemesis waits for, the second means that it aims at something it must leave alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

import aiohttp

from onceproof.crashpoints import Action
from onceproof_chaos.plan import Fault

_TIMEOUT_S: Final = 5.0
_LONG_POLL_SLACK_S: Final = 10.0
"""Seconds that the answer of a long poll may be late."""
_IDS_EACH: Final = 100
"""Fault ids in one request, whose first line the server limits to 64 KiB."""
_PATH: Final = "/crash-points"


class AdminError(Exception):
    """An admin port gave an answer that cannot be used; the message holds it."""


class AdminGoneError(AdminError):
    """An admin port cannot be reached: the service is starting, ending, or dead."""


class ChaosDisabledError(AdminError):
    """The service does not serve crash points, because chaos is not enabled on it."""


@dataclass(frozen=True, slots=True)
class ReachedPoint:
    """A crash point that fired in a service.

    Args:
        seq: number in that process, from 1.
        fault: id of the fault that was armed.
        point: name of the crash point.
        action: what it does there.
        order: order that passed it.
        attempt: delivery attempt, from 1.
        event_id: event of the order, empty where there is none.
        at: Unix time in seconds.
        trace_id: of the span `crash_point.reached`, as hex text.
        span_id: of the same.
    """

    seq: int
    fault: str
    point: str
    action: Action
    order: str
    attempt: int
    event_id: str
    at: float
    trace_id: str
    span_id: str

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """What the admin port sends; unknown fields are left out.

        Raises:
            ValueError, KeyError, TypeError: it is no reached crash point.
        """
        known = {name: document[name] for name in cls.__slots__}
        return cls(**known | {"action": Action(document["action"])})


class AdminClient:
    """Client for the admin ports of services. `url` is the base URL of one, e.g. `http://pod:9000`.

    Every method raises `AdminGoneError`, `ChaosDisabledError`, or `AdminError` for anything else.

    Args:
        http: session to use; it is not closed.
    """

    def __init__(self, http: aiohttp.ClientSession) -> None:
        self._http = http

    async def arm(self, url: str, faults: Sequence[Fault]) -> None:
        """Arm faults, each replacing one of the same id. One that has fired there stays fired."""
        if faults:
            await self._ask("PUT", url, body=[fault.as_json() for fault in faults])

    async def disarm(self, url: str, ids: Sequence[str] = ()) -> None:
        """Take back faults by id, or every fault when no id is given."""
        for first in range(0, max(len(ids), 1), _IDS_EACH):
            query = [("id", fault_id) for fault_id in ids[first : first + _IDS_EACH]]
            await self._ask("DELETE", url, query=query)

    async def armed(self, url: str) -> list[str]:
        """Ids of the faults that have not fired."""
        answer = await self._ask("GET", url)
        return [str(fault["id"]) for fault in _rows(url, answer)]

    async def reached(self, url: str, *, after: int = 0, wait_s: float = 0.0) -> list[ReachedPoint]:
        """Crash points that fired with a number above `after`.

        Args:
            url: base URL.
            after: number of the last one that is known.
            wait_s: seconds to wait for one; the server waits for 60 at most.
        """
        answer = await self._ask(
            "GET",
            url,
            path=f"{_PATH}/reached",
            query=[("after", str(after)), ("wait", str(wait_s))],
            timeout_s=wait_s + _LONG_POLL_SLACK_S,
        )
        try:
            return [ReachedPoint.from_json(row) for row in _rows(url, answer)]
        except (KeyError, ValueError, TypeError) as error:
            raise AdminError(f"{url} sent no reached crash point: {error!r}") from None

    async def _ask(
        self,
        method: str,
        url: str,
        *,
        path: str = _PATH,
        query: Sequence[tuple[str, str]] = (),
        body: object = None,
        timeout_s: float = _TIMEOUT_S,
    ) -> object:
        try:
            async with self._http.request(
                method,
                f"{url.rstrip('/')}{path}",
                params=list(query),
                json=body,
                timeout=aiohttp.ClientTimeout(total=timeout_s, sock_connect=_TIMEOUT_S),
            ) as response:
                text = await response.text(errors="replace")
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, TimeoutError) as error:
            problem = str(error) or type(error).__name__
            raise AdminGoneError(f"{url} cannot be reached: {problem}") from error
        if response.status == 404:
            raise ChaosDisabledError(
                f"{url} serves no crash points: chaos is not enabled there "
                "(ONCEPROOF_CHAOS_ENABLED=true enables it, never in production)"
            )
        if response.status != 200:
            raise AdminError(f"{method} {url}{path}: HTTP {response.status}: {text[:500]}")
        try:
            return json.loads(text)
        except ValueError:
            raise AdminError(
                f"{method} {url}{path} did not answer with JSON: {text[:500]}"
            ) from None


def _rows(url: str, answer: object) -> list[Mapping[str, Any]]:
    if not isinstance(answer, list) or not all(isinstance(row, dict) for row in answer):
        raise AdminError(f"{url} did not answer with a list of objects: {str(answer)[:500]}")
    return answer


__all__ = ["AdminClient", "AdminError", "AdminGoneError", "ChaosDisabledError", "ReachedPoint"]
