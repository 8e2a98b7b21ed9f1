"""The events of a run, in the form that the handler under proof expects.

Most handlers validate what they get, so the data comes from a template, or from a function of the
user's: `def events(count: int, rng: random.Random) -> Iterable[Event]`. Either way a seed gives the same
events, and each run publishes the same ones.
"""

from __future__ import annotations

import json
import random
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from string import Template
from typing import Any

from onceproof.brokers.sqs import SqsBroker
from onceproof.errors import BrokerUnavailableError, ConfigurationError
from onceproof.events import Event
from onceproof.ports import Outgoing
from onceproof_chaos.prove.settings import ProveSettings
from onceproof_chaos.prove.target import load


@dataclass(frozen=True, slots=True)
class Published:
    """An event and the bytes that go to the queue."""

    event: Event
    body: bytes

    @property
    def row(self) -> tuple[str, str | None, str, str]:
        """The row of `prove.published`: id, key, type, and data as JSON."""
        return self.event.id, self.event.key, self.event.type, json.dumps(self.event.data)

    @property
    def key(self) -> str:
        """The event's key, or its id where it has none: what a crash point matches on."""
        return self.event.key or self.event.id


def make_messages(settings: ProveSettings) -> list[Published]:
    """The events of every run of a proof.

    Raises:
        ConfigurationError: the template or the user's function gives something else than events.
    """
    rng = random.Random(f"prove-{settings.seed}")
    events = _from_function(settings, rng) if settings.events else _from_template(settings, rng)
    if len({event.id for event in events}) < len(events):
        raise ConfigurationError("two events have the same id; each must be an event of its own")
    try:
        return [Published(event, _body(event, raw=settings.raw)) for event in events]
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"the data of an event is no JSON: {error}") from None


async def publish(broker: SqsBroker, queue: str, messages: Sequence[Published]) -> None:
    """Send messages; each is a message of its own, whatever was sent before.

    Raises:
        BrokerUnavailableError: one could not be sent.
    """
    results = await broker.send(
        queue, [Outgoing(m.event.id, m.body, m.event.key) for m in messages]
    )
    failed = [result for result in results if not result.ok]
    if failed:
        raise BrokerUnavailableError(f"{len(failed)} messages not published: {failed[0].error}")


def _from_template(settings: ProveSettings, rng: random.Random) -> list[Event]:
    events = []
    for number in range(settings.messages):
        key = f"m-{settings.seed}-{number:04d}"
        event_id = str(uuid.UUID(int=rng.getrandbits(128), version=4))
        events.append(
            Event(
                type=settings.event_type,
                data=_data(settings.data, key=key, number=number, id=event_id),
                key=key,
                source="/onceproof/prove",
                id=event_id,
            )
        )
    return events


def _data(template: str, **values: object) -> Any:  # noqa: ANN401 - JSON
    try:
        text = Template(template).substitute(values)
    except (KeyError, ValueError) as error:
        raise ConfigurationError(
            f"the data template is wrong at {error}; known: $key, $number, $id; $$ is a dollar sign"
        ) from None
    try:
        return json.loads(text)
    except ValueError as error:
        raise ConfigurationError(
            f"the data template gives no JSON ({error}): {text[:200]}"
        ) from None


def _from_function(settings: ProveSettings, rng: random.Random) -> list[Event]:
    assert settings.events is not None  # noqa: S101 - the caller looked
    make = load(settings.events, settings.path)
    if not callable(make):
        raise ConfigurationError(f"{settings.events} is no function that makes events")
    try:
        events = list(make(settings.messages, rng))
    except Exception as error:
        raise ConfigurationError(
            f"{settings.events} failed: {error!r}; expected: def events(count, rng) that gives "
            "onceproof.events.Event objects"
        ) from error
    if not events or not all(isinstance(event, Event) for event in events):
        raise ConfigurationError(f"{settings.events} must give onceproof.events.Event objects")
    return events


def _body(event: Event, *, raw: bool) -> bytes:
    return json.dumps(event.data).encode() if raw else event.encode()


__all__ = ["Published", "make_messages", "publish"]
