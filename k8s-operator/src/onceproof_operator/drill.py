"""Carries out one CrashDrill: select, arm, wait, kill, wait for the redelivery and for quiet, verify.

Read `Drill.run` top to bottom. Each step writes its condition before the next begins, so a new operator
pod goes on where the old one stopped: what is armed or parked is in the target's pods, and what was
seen is in the drill's status. The intention to delete is written before the deletion, because a pod
that is gone cannot say who did it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Final

from onceproof.crashpoints import PRODUCER_AFTER_COMMIT, RELAY_AFTER_PUBLISH, Action
from onceproof_chaos.admin_client import ReachedPoint
from onceproof_chaos.traces import TraceStoreError
from onceproof_operator.api import ForbiddenError
from onceproof_operator.campaign_spec import is_running
from onceproof_operator.cluster import Pod
from onceproof_operator.conditions import State, Status, timestamp, unix
from onceproof_operator.drill_spec import DrillSpec
from onceproof_operator.kill import Kill, delete_and_wait, record
from onceproof_operator.target import RefusedError, Target
from onceproof_operator.verification import handled_after, verify
from onceproof_operator.world import World

logger = logging.getLogger(__name__)

_SETTLED: Final = frozenset({"NoKillWanted", "NothingCame"})
"""Reasons of conditions that are false for good: the drill goes on to the next step."""
STEPS: Final = ("Selected", "Armed", "Reached", "Killed", "Redelivered", "Drained", "Verified")
_POLL_S: Final = 0.3
_TRACES_POLL_S: Final = 1.0


class Drill:
    """One CrashDrill on its way.

    Args:
        spec: what it asks for.
        status: its status, possibly from an earlier operator.
        world: everything outside.
    """

    def __init__(self, spec: DrillSpec, status: Status, world: World) -> None:
        self._spec = spec
        self._status = status
        self._world = world
        self._target = Target(spec, world)
        self._armed: set[str] = set()

    async def run(self) -> None:
        """Go from where the status stands to a verdict.

        Cancelled, it leaves everything as it is, for the next operator; see `abandon`.
        """
        if self._status.get("verdict"):
            return
        left_s = self._spec.created + self._spec.deadline_s - time.time()
        deadline = asyncio.timeout(max(left_s, 0.0))
        try:
            async with deadline:
                await self._until_quiet()
            await self.abandon()
            await self._verify()
        except RefusedError as error:
            await self._give_up(error.step, error.reason, str(error))
        except ForbiddenError as error:
            await self._give_up(self._next_step(), "Forbidden", str(error))
        except Exception as error:
            # Whatever broke in here is no verdict on the pipeline.
            late = isinstance(error, TimeoutError) and deadline.expired()
            if late:
                await self._give_up(self._next_step(), "DeadlineExceeded", self._too_late())
            else:
                logger.exception("drill %s", self._spec.name)
                await self._give_up(self._next_step(), "OperatorError", repr(error))

    async def abandon(self) -> None:
        """Disarm every pod, also those armed by an earlier operator, and end those that are parked."""
        await self._target.take_back()

    async def _until_quiet(self) -> None:
        if self._status.holds("Drained"):
            return
        if not self._status.condition("Selected"):
            async with self._world.admission:
                await self._refuse_unless_alone()
                await self._step_open(
                    "Selected", "Unknown", "Looking", f"for pods of {self._spec.selector!r}"
                )
        if not self._status.holds("Reached"):
            await self._until_reached()
        if self._spec.action is Action.KILL:
            if not self._status.holds("Killed"):
                await self._kill()
        else:
            await self._no_kill()
        await self._drain()

    async def _refuse_unless_alone(self) -> None:
        """Two faults on one order, or a campaign's kills in between, would prove nothing."""
        cluster = self._world.cluster
        for other in await cluster.objects("crashdrills"):
            meta, status = other["metadata"], other.get("status", {})
            # Drills begin one at a time, so the one that has begun is the earlier one.
            if (
                other["spec"]["match"]["order"] == self._spec.order
                and meta["uid"] != self._spec.uid
                and status.get("conditions")
                and not status.get("verdict")
            ):
                raise RefusedError(
                    "Selected",
                    "OrderTaken",
                    f"drill {meta['name']} is at work on order {self._spec.order}; use another order "
                    "or wait for its verdict",
                )
        for campaign in await cluster.objects("campaigns"):
            if is_running(campaign):
                raise RefusedError(
                    "Selected",
                    "CampaignRunning",
                    f"campaign {campaign['metadata']['name']} is running; wait until it has finished",
                )

    async def _until_reached(self) -> None:
        """Keep every pod of the target armed until one of them stands at the crash point."""
        watches: dict[asyncio.Task[ReachedPoint | None], Pod] = {}
        try:
            while True:
                pods = await self._select()
                for pod in pods:
                    if pod.uid not in self._armed and await self._target.arm(pod):
                        self._armed.add(pod.uid)
                        watches[asyncio.create_task(self._target.watch(pod))] = pod
                if self._armed and all(pod.uid in self._armed for pod in pods if pod.ready):
                    await self._step(
                        "Armed",
                        "Waiting",
                        f"{len(self._armed)} pods wait for order {self._spec.order}: place it now",
                        armedAt=self._status.get("armedAt") or timestamp(),
                    )
                if not watches:
                    await asyncio.sleep(_POLL_S)
                    continue
                done, _ = await asyncio.wait(
                    watches, timeout=_POLL_S, return_when=asyncio.FIRST_COMPLETED
                )
                for task in done:
                    pod = watches.pop(task)
                    if (reached := task.result()) is not None:
                        # At once: the order comes again, and the next pod must not stop at it too.
                        await self._target.take_back(spare=pod.uid)
                        await self._reached(pod, reached)
                        return
                    self._armed.discard(pod.uid)  # gone, and its replacement has no fault yet
        finally:
            for task in watches:
                task.cancel()
            await asyncio.gather(*watches, return_exceptions=True)

    async def _select(self) -> list[Pod]:
        pods = await self._target.usable()
        if pods or await self._target.pods():
            await self._step(
                "Selected", "PodsFound", f"{len(pods)} pods match {self._spec.selector!r}"
            )
        else:
            await self._step_open(
                "Selected",
                "False",
                "NoPodsMatched",
                f"no pod in namespace {self._world.cluster.namespace} matches "
                f"{self._spec.selector!r}; correct the selector, or start the pods before the deadline",
            )
        return pods

    async def _reached(self, pod: Pod, event: ReachedPoint) -> None:
        await self._step(
            "Reached",
            "CrashPointReached",
            f"pod {pod.name} stands at {event.point} with order {event.order}, "
            f"delivery attempt {event.attempt}",
            pod={"name": pod.name, "uid": pod.uid},
            attempt=event.attempt,
            eventId=event.event_id,
            traceId=event.trace_id,
            spanId=event.span_id,
            reachedAt=timestamp(event.at),
        )

    async def _kill(self) -> None:
        cluster, reached = self._world.cluster, self._status["pod"]
        intended = self._status.condition("Killed").get("reason") == "Deleting"
        pods = await cluster.pods(self._spec.selector)
        victim = next((pod for pod in pods if pod.uid == reached["uid"]), None)
        if victim is not None and self._stood_s() > self._target.fault.park_s:
            raise RefusedError(
                "Killed",
                "WentOn",
                f"pod {victim.name} stood for {self._target.fault.park_s:.0f} s, then went on unharmed",
            )
        await self._status.report(
            "Killed", "Unknown", "Deleting", f"deleting pod {reached['name']}"
        )
        # Where an earlier operator has deleted it, that was when it said so.
        started_at = unix(self._status.condition("Killed")["lastTransitionTime"])
        try:
            gone_at = await delete_and_wait(cluster, victim) if victim is not None else None
        except TimeoutError as error:
            raise RefusedError("Killed", "StillThere", str(error)) from error
        if gone_at is None and not intended:
            raise RefusedError(
                "Killed", "NotOurs", f"pod {reached['name']} was gone before this drill deleted it"
            )
        kill = Kill(
            drill=self._spec.name,
            namespace=cluster.namespace,
            pod=reached["name"],
            uid=reached["uid"],
            point=self._spec.point,
            order=self._spec.order,
            attempt=self._status["attempt"],
            event_id=self._status["eventId"],
            trace_id=self._status["traceId"],
            span_id=self._status["spanId"],
            started_at=started_at,
            ended_at=gone_at or time.time(),
        )
        record(kill)
        await self._step(
            "Killed",
            "PodDeleted",
            f"pod {kill.pod} was deleted at {kill.point} with grace period 0",
            killedAt=timestamp(started_at),
            pod=dict(reached) | {"goneAt": timestamp(kill.ended_at)},
        )

    async def _no_kill(self) -> None:
        await self._status.report(
            "Killed", "False", "NoKillWanted", f"action {self._spec.action} kills nothing"
        )
        if self._spec.action is Action.STALL:
            # The drain must not begin before the zombie is awake: it would see a false quiet.
            await asyncio.sleep(max(0.0, self._target.fault.park_s - self._stood_s()))

    def _stood_s(self) -> float:
        """Since when the pod stands at the crash point; by the operator's clock, not the pod's."""
        return time.time() - unix(self._status.condition("Reached")["lastTransitionTime"])

    async def _drain(self) -> None:
        """Wait until all is quiet, and meanwhile look for the order being handled again."""
        looking = asyncio.create_task(self._look_for_redelivery())
        try:
            reason = await self._world.drain().until_quiet(
                timeout_s=self._spec.deadline_s, idle=lambda: True
            )
        finally:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)
        if not self._status.holds("Redelivered") and not await self._redelivered():
            await self._status.report(
                "Redelivered",
                "False",
                "NothingCame",
                "queue and outbox are empty and the order was not handled after the fault",
            )
        if reason is not None:
            raise RefusedError("Drained", "NotQuiet", reason)
        await self._step("Drained", "Quiet", "queue and outbox are empty, ledgers do not change")

    async def _look_for_redelivery(self) -> None:
        while not await self._redelivered():
            await asyncio.sleep(_TRACES_POLL_S)

    async def _redelivered(self) -> bool:
        try:
            spans = await self._world.traces.of_order(self._spec.order, since=self._spec.created)
        except TraceStoreError as error:
            logger.warning("traces of %s: %s", self._spec.order, error)
            return False
        fault_at = unix(self._status.get("killedAt") or self._status["reachedAt"])
        published = self._spec.point == RELAY_AFTER_PUBLISH
        alone = self._spec.stalls_alone(relays_share=self._world.settings.relays_share)
        if (published and alone) or self._spec.point == PRODUCER_AFTER_COMMIT:
            # Sent, or committed and so handed over: who goes on with it may be faster than the fault.
            since = self._spec.created
        elif published:
            # What was published may be handled at once; it is its twin that counts.
            since = fault_at
        else:
            # What the pod did not get to do, another may do before this one is dead or has told of it.
            crash = (span.start for span in spans if span.span_id == self._status["spanId"])
            since = next(crash, fault_at)
        span = handled_after(spans, since)
        if span is None:
            return False
        await self._step(
            "Redelivered",
            "HandledAgain",
            f"delivery attempt {span.attempt} was handled "
            f"{max(span.start - fault_at, 0):.1f} s after the fault, by {span.instance}",
            redeliveredAt=timestamp(span.start),
        )
        return True

    async def _verify(self) -> None:
        result = await verify(self._spec, self._status, self._world)
        state: State = "True" if result.verdict != "inconclusive" else "False"
        self._status.set(
            step="Verified" if state == "True" else self._status.get("step"),
            verdict=result.verdict,
            checks=[check.as_json() for check in result.checks],
            captures=result.captures,
            charges=result.charges,
            endedAt=timestamp(),
            failedStep="Verified" if state == "False" else None,
        )
        await self._status.report("Verified", state, result.reason, result.message)

    async def _give_up(self, step: str, reason: str, message: str) -> None:
        try:
            await self.abandon()
        except RefusedError:
            logger.info("drill %s: nothing to take back", self._spec.name)
        except Exception as error:
            # A drill without a verdict would be waited for for ever.
            logger.exception("drill %s left faults armed", self._spec.name)
            message += f"; not everything could be taken back: {error}"
        self._status.set(verdict="inconclusive", failedStep=step, endedAt=timestamp())
        await self._status.report(step, "False", reason, message)

    def _next_step(self) -> str:
        """The step that is under way: the first whose condition is not settled."""
        for step in STEPS:
            if step == "Killed" and self._spec.action is not Action.KILL:
                continue
            if not (
                self._status.holds(step) or self._status.condition(step).get("reason") in _SETTLED
            ):
                return step
        return STEPS[-1]

    def _too_late(self) -> str:
        why = self._status.get("message") or "nothing happened"
        return f"not done within {self._spec.deadline_s:.0f} s; it stood at: {why}"

    async def _step(self, kind: str, reason: str, message: str, **fields: object) -> None:
        if self._status.says(kind, "True", reason, message):
            return  # pods are looked at all the time: without news nothing is written
        now = self._status.get("step")
        step = max(kind, now if now in STEPS else kind, key=STEPS.index)
        await self._status.report(kind, "True", reason, message, step=step, **fields)

    async def _step_open(self, kind: str, state: State, reason: str, message: str) -> None:
        await self._status.report(kind, state, reason, message, step="Selecting")
