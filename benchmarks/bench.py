"""What all contests share, and the harness that alternates their contenders."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.contest import Answer, Contender, Contest, NotRunError, answer
from benchmarks.database import Database
from benchmarks.elasticmq import QueueServer, elasticmq
from benchmarks.figures import InvalidRunError, Sample
from benchmarks.metering import BROKER
from benchmarks.queue_ceiling import warm_up
from benchmarks.queue_content import sqs_client
from onceproof.errors import OnceproofError


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured.

    Args:
        repeats: timed runs of each contender.
        seconds: length of a run, roughly.
        clients: connections to Postgres.
        contenders: only those whose name has one of these in it; empty means all.
    """

    repeats: int
    seconds: float
    clients: int
    contenders: Sequence[str] = ()


class Bench:
    """The servers of one benchmark; open it with `bench`.

    Args:
        where: the database.
        pgbench: the program.
        scale: how much is measured.
        say: tells people what is being done.
    """

    def __init__(
        self,
        where: Database,
        pgbench: Path,
        scale: Scale,
        say: Callable[[str], None],
        *,
        sqs_endpoint: str | None,
        stack: AsyncExitStack,
    ) -> None:
        self.where = where
        self.pgbench = pgbench
        self.scale = scale
        self.say = say
        self.installed: set[str] = set()
        """Peers whose tables are in the database."""
        self._sqs_endpoint = sqs_endpoint
        self._stack = stack
        self._queue: QueueServer | NotRunError | None = None

    async def queue_server(self) -> QueueServer:
        """The SQS server, started when it is first asked for.

        Raises:
            NotRunError: there is none.
        """
        if self._queue is None:
            self.say("starting ElasticMQ")
            try:
                self._queue = await self._stack.enter_async_context(elasticmq(self._sqs_endpoint))
            except NotRunError as error:
                self._queue = error
            else:
                self.say("warming ElasticMQ up")
                async with sqs_client(self._queue.endpoint) as client:
                    await warm_up(client)
        if isinstance(self._queue, NotRunError):
            raise self._queue
        self.where.meter.watch_always(BROKER, self._queue.pid)
        return self._queue

    @property
    def queue(self) -> QueueServer | None:
        """The SQS server, if one was needed and could be had."""
        return self._queue if isinstance(self._queue, QueueServer) else None


@asynccontextmanager
async def bench(
    where: Database,
    pgbench: Path,
    scale: Scale,
    say: Callable[[str], None],
    *,
    sqs_endpoint: str | None = None,
) -> AsyncIterator[Bench]:
    """A benchmark's servers beside Postgres, stopped at the end."""
    async with AsyncExitStack() as stack:
        yield Bench(where, pgbench, scale, say, sqs_endpoint=sqs_endpoint, stack=stack)


@dataclass(slots=True)
class Outcome:
    """What a contest came to.

    Args:
        contest: the one.
        samples: by contender, in the order in which they were made.
        absent: contenders that were not measured to the end, and why.
        invalid: those of them who did the work wrongly.
        why_not: why the contest was not run at all.
    """

    contest: Contest
    samples: dict[str, list[Sample]] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    invalid: dict[str, str] = field(default_factory=dict)
    why_not: str | None = None

    def answers(self) -> list[Answer]:
        """The contest's questions, answered."""
        if self.why_not is not None:
            return [Answer(question, why_not=self.why_not) for question in self.contest.questions]
        return [
            answer(question, self.samples, self.absent | self.invalid)
            for question in self.contest.questions
        ]


async def run_contest(
    contest: Contest, at: Bench, step: Callable[[str], None] = lambda _what: None
) -> Outcome:
    """Alternate the contenders; whoever fails is out, and the others go on.

    Args:
        contest: the one.
        at: the servers.
        step: told before each run.
    """
    outcome = Outcome(contest)
    try:
        async with contest.open(at) as contenders:
            wanted = [each for each in contenders if _wanted(each.name, at.scale.contenders)]
            outcome.absent |= {
                each.name: "left out by --contender" for each in contenders if each not in wanted
            }
            ready = await _prepared(wanted, outcome, step)
            for repeat in range(at.scale.repeats):
                for contender in _still(ready, outcome):
                    step(f"{contender.name}, run {repeat + 1} of {at.scale.repeats}")
                    try:
                        sample = await contender.measure(repeat)
                    except InvalidRunError as error:
                        outcome.invalid[contender.name] = f"invalid run: {error}"
                    except (NotRunError, OnceproofError) as error:
                        outcome.absent[contender.name] = str(error)
                    else:
                        outcome.samples.setdefault(contender.name, []).append(sample)
    except (NotRunError, OnceproofError) as error:
        outcome.why_not = str(error)
    finally:
        await at.where.meter.stop()
    return outcome


def _wanted(name: str, parts: Sequence[str]) -> bool:
    return not parts or any(part in name for part in parts)


async def _prepared(
    contenders: Sequence[Contender], outcome: Outcome, step: Callable[[str], None]
) -> list[Contender]:
    ready = []
    for contender in contenders:
        step(f"{contender.name}, getting ready")
        try:
            await contender.prepare()
        except InvalidRunError as error:
            outcome.invalid[contender.name] = f"invalid run: {error}"
        except (NotRunError, OnceproofError, TimeoutError, asyncio.IncompleteReadError) as error:
            outcome.absent[contender.name] = str(error) or type(error).__name__
        else:
            ready.append(contender)
    return ready


def _still(contenders: Sequence[Contender], outcome: Outcome) -> Iterator[Contender]:
    out = outcome.absent.keys() | outcome.invalid.keys()
    return (contender for contender in contenders if contender.name not in out)
