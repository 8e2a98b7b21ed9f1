"""What a run does: variant, workload, faults and times; and the command line that repeats it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from onceproof.crashpoints import CRASH_POINTS
from onceproof.variants import Fixes, parse_variant
from onceproof_chaos.backend import Role
from onceproof_chaos.plan import MAX_SPARES, Plan, build_plan

SQS: Final = "sqs"
KAFKA: Final = "kafka"
"""Brokers."""
POLLING: Final = "polling"
CDC: Final = "cdc"
"""Relays: ours, and Debezium reading the WAL."""
TRANSACTIONS: Final = "transactions"
"""The variant that trusts in them."""
PROCESS: Final = "process"
KUBERNETES: Final = "kubernetes"
"""Where the services run."""
_POD_SPARES: Final = 6
"""A pod takes seconds to be replaced, and a backlog passes in one batch: more orders are overtaken."""
_SMALL_DEMO: Final = 120
"""Orders below which a demo has half as many faults."""


def check_transactions(broker: str, *, transactions: bool) -> None:
    """Refuse them on any other broker.

    Raises:
        ValueError: the broker has none.
    """
    if transactions and broker != KAFKA:
        raise ValueError("transactions are Kafka's: use --broker kafka")


def check_relay(relay: str) -> None:
    """Refuse a relay that is none.

    Raises:
        ValueError: it is not.
    """
    if relay not in {POLLING, CDC}:
        raise ValueError(f"unknown relay {relay!r}; known: {POLLING}, {CDC}")


def broker_words(broker: str, *, transactions: bool, relay: str = POLLING) -> list[str]:
    """What a command line says of broker and relay; of the default ones nothing."""
    words = ["--broker", broker] if broker != SQS else []
    words += ["--transactions"] if transactions else []
    return words + (["--relay", relay] if relay != POLLING else [])


@dataclass(frozen=True, slots=True)
class CampaignSettings:
    """What a run does. Times in seconds.

    Args:
        variant: naive, hardened or an ablation.
        orders: size of the workload.
        seed: of workload and plan.
        broker: sqs or kafka.
        kills_per_point: kills by crash point.
        stalls: consumers that stand still past the visibility timeout.
        dropped: publishes that fail.
        unknown: publishes whose outcome is unknown.
        provider_timeouts: captures whose answer never comes.
        rate_per_s: orders per second that the clients place.
        clients: orders in flight at most.
        replicas: processes per service.
        visibility_s: visibility timeout; short, so that a run does not wait for long.
        max_receive_count: deliveries before the DLQ; high, because a message may be in a process that
            dies of somebody else's fault again and again.
        drain_timeout_s: for the queue to become quiet.
        run: name of the run in its order ids, where the database outlives it.
        backend: process or kubernetes.
        transactions: a stage in Kafka transactions stands between relay and consumer.
        relay: polling, or cdc: Debezium reads the outbox from the WAL.
    """

    variant: str
    orders: int
    seed: int
    broker: str = SQS
    kills_per_point: Mapping[str, int] = field(
        default_factory=lambda: dict.fromkeys(CRASH_POINTS, 4)
    )
    stalls: int = 2
    dropped: int = 2
    unknown: int = 2
    provider_timeouts: int = 2
    rate_per_s: float = 25.0
    clients: int = 16
    replicas: Mapping[Role, int] = field(
        default_factory=lambda: {
            Role.PROVIDER: 1,
            Role.CONSUMER: 2,
            Role.RELAY: 2,
            Role.PRODUCER: 2,
        }
    )
    visibility_s: float = 3.0
    max_receive_count: int = 50
    drain_timeout_s: float = 120.0
    run: str = ""
    backend: str = PROCESS
    transactions: bool = False
    relay: str = POLLING

    def __post_init__(self) -> None:
        parse_variant(self.variant)
        if self.variant == TRANSACTIONS:
            object.__setattr__(self, "transactions", True)
        if self.transactions:
            object.__setattr__(self, "replicas", {**self.replicas, Role.STAGE: 1})
            check_transactions(self.broker, transactions=self.transactions)
        check_relay(self.relay)
        if self.relay == CDC:  # a slot has one reader
            object.__setattr__(self, "replicas", {**self.replicas, Role.RELAY: 1})
        if self.backend not in {PROCESS, KUBERNETES}:
            raise ValueError(f"unknown backend {self.backend!r}; known: {PROCESS}, {KUBERNETES}")

    @property
    def fixes(self) -> Fixes:
        """Which fixes are on."""
        return parse_variant(self.variant)

    @classmethod
    def demo(cls, variant: str, orders: int, seed: int, broker: str) -> CampaignSettings:
        """A demo's settings: every kind of fault, few enough to leave each of them spare orders."""
        of_each = 1 if orders < _SMALL_DEMO else 2
        return cls(
            variant=variant,
            orders=orders,
            seed=seed,
            broker=broker,
            kills_per_point=dict.fromkeys(CRASH_POINTS, 2 * of_each),
            stalls=of_each,
            dropped=of_each,
            unknown=of_each,
            provider_timeouts=of_each,
        )

    def plan(self) -> Plan:
        """The faults of the run.

        Raises:
            ValueError: they do not fit into the workload.
        """
        return build_plan(
            self.seed,
            self.orders,
            kills_per_point=self.kills_per_point,
            stalls=self.stalls,
            dropped=self.dropped,
            unknown=self.unknown,
            provider_timeouts=self.provider_timeouts,
            stall_s=self.visibility_s + 2,
            run=self.run,
            max_spares=_POD_SPARES if self.backend == KUBERNETES else MAX_SPARES,
        )

    def as_json(self) -> dict[str, Any]:
        """Plain JSON types, for `run.json`."""
        document = asdict(self)
        document["replicas"] = {role.value: count for role, count in self.replicas.items()}
        document["kills_per_point"] = dict(self.kills_per_point)
        return document

    def command(self) -> str:
        """The command line that repeats the run, where it ran."""
        return self._manifest() if self.backend == KUBERNETES else self._campaign_run()

    def _manifest(self) -> str:
        """For an installation of the same variant; the operator names the run anew."""
        campaign = {
            "apiVersion": "onceproof.dev/v1alpha1",
            "kind": "Campaign",
            "metadata": {"generateName": "campaign-"},
            "spec": {
                "variant": self.variant,
                "orders": self.orders,
                "seed": self.seed,
                "faults": {
                    "kills": {
                        point: kills for point, kills in self.kills_per_point.items() if kills
                    },
                    "stalls": self.stalls,
                    "dropped": self.dropped,
                    "unknown": self.unknown,
                    "providerTimeouts": self.provider_timeouts,
                },
                "concurrency": self.clients,
                "ratePerSecond": self.rate_per_s,
            },
        }
        manifest = json.dumps(campaign, separators=(",", ":"))
        return f"echo {shlex.quote(manifest)} | kubectl create -f -"

    def _campaign_run(self) -> str:
        points = [point for point, kills in self.kills_per_point.items() if kills]
        options: dict[str, object] = {
            "--variant": self.variant,
            "--orders": self.orders,
            "--seed": self.seed,
            "--kills-per-point": max(self.kills_per_point.values(), default=0),
            "--points": ",".join(points) or "none",
            "--stalls": self.stalls,
            "--dropped": self.dropped,
            "--unknown": self.unknown,
            "--provider-timeouts": self.provider_timeouts,
            "--rate": self.rate_per_s,
        }
        words = [word for option, value in options.items() for word in (option, str(value))]
        asked_for = self.transactions and self.variant != TRANSACTIONS
        words += broker_words(self.broker, transactions=asked_for, relay=self.relay)
        return shlex.join(["onceproof", "campaign", "run", *words])
