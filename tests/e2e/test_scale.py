"""More pods and fewer, while orders flow: nothing is lost, nothing doubled, and pods leave in peace."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import yaml
from tests.e2e.cluster import CommandError
from tests.e2e.installation import RELEASE, Installation
from tests.e2e.load import load, watched_pods
from tests.e2e.waiting import until

from onceproof.telemetry import DEDUP_HIT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

CONSUMER = f"{RELEASE}-consumer"
RELAY = f"{RELEASE}-relay"
ORDERS = 640
RATE_PER_S = 8.0
UNHURRIED_S = 20
"""A lease and a visibility that no machine is too busy for: what comes twice then was not settled."""
ORDERS_OF_A_MINUTE = 720


@pytest.fixture(autouse=True, scope="module")
def _only_hardened(variant: str):
    if variant != "hardened":
        pytest.skip("naive makes no promise that scaling could break")


def scale(installation: Installation, deployment: str, replicas: int) -> None:
    """Scale, and wait until there are as many ready pods and no other."""
    cluster, component = installation.cluster, deployment.removeprefix(f"{RELEASE}-")
    cluster.kubectl("scale", f"deployment/{deployment}", f"--replicas={replicas}")

    def there() -> bool:
        pods = cluster.pods(component)
        return len(pods) == replicas and all(pod.ready and not pod.leaving for pod in pods)

    # A pod that leaves has 30 s for its drain before it is killed.
    until(60, f"{replicas} pods of {deployment}", there)


def scale_relay(installation: Installation, replicas: int) -> None:
    """With change data capture it is one: a slot has one reader."""
    if installation.relay == "polling":
        scale(installation, RELAY, replicas)


def set_timing(installation: Installation, **seconds: float) -> None:
    # With --set a fraction would be a text.
    values = (f"--set-json=chaos.timing.{name}Seconds={value}" for name, value in seconds.items())
    installation.upgrade(*values)
    installation.settled()


@pytest.fixture
def unhurried(installation: Installation):
    """The installation with times that do not lapse while pods come and go."""
    slow, calls = UNHURRIED_S, UNHURRIED_S / 2
    set_timing(installation, visibility=slow, lease=slow, providerTimeout=calls, withhold=calls + 1)
    yield installation
    set_timing(installation, visibility=3, lease=3, providerTimeout=1.5, withhold=3)


def test_consumers_and_relays_come_and_go_under_load(unhurried: Installation, runs: Path):
    began = time.time()

    def at_work() -> set[str]:
        spans = unhurried.traces.spans(began, time.time())
        return {span.instance for span in spans if span.is_process}

    try:
        with (
            watched_pods(unhurried.cluster, "consumer", runs / "consumers.json") as ended,
            load(unhurried, runs, orders=ORDERS, rate_per_s=RATE_PER_S) as orders,
        ):
            scale(unhurried, CONSUMER, 4)
            scale_relay(unhurried, 3)
            # A consumer is ready before it is given anything: over Kafka its partitions come later.
            until(30, "four consumers at work", lambda: len(at_work()) >= 4)
            scale(unhurried, CONSUMER, 1)
            assert not orders.ended(), "the load ended before the scaling did"
            scale(unhurried, CONSUMER, 2)
            scale_relay(unhurried, 2)
            orders.charged_once(within_s=180)
            # What was charged but not acked comes again when its visibility ends, and only then goes.
            until(3 * UNHURRIED_S, "an empty queue", lambda: not unhurried.queued())
            until(20, "three consumers seen to leave", lambda: len(ended()) == 3)
            left = ended()
    finally:
        scale(unhurried, CONSUMER, 2)
        scale_relay(unhurried, 2)
    # They gave back what they had not begun and finished what they had: no SIGKILL, no redelivery
    # of something that was charged already.
    assert set(left.values()) == {0}, left
    spans = unhurried.traces.spans(began, time.time())
    handled = [s for s in spans if s.is_process and (s.order_id or "").startswith(orders.prefix)]
    assert len(handled) >= ORDERS
    assert [span.order_id for span in handled if span.attributes.get(DEDUP_HIT)] == []
    assert len({span.instance for span in handled}) >= 4, "not every consumer took part"


@pytest.fixture(scope="module")
def autoscaled(installation: Installation):
    """The consumer under the chart's HorizontalPodAutoscaler, with a short memory."""
    installation.upgrade(
        "--set", "autoscaling.enabled=true,autoscaling.minReplicas=1,autoscaling.maxReplicas=4",
        "--set", "autoscaling.targetCPUUtilizationPercentage=60",
        "--set", "autoscaling.behavior.scaleDown.stabilizationWindowSeconds=15",
    )  # fmt: skip
    yield installation
    installation.upgrade("--set", "autoscaling.enabled=false")
    scale(installation, CONSUMER, 2)


def test_the_autoscaler_is_the_consumers(autoscaled: Installation):
    spec = autoscaled.cluster.get("hpa", CONSUMER)["spec"]
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": CONSUMER}
    assert spec["scaleTargetRef"] == target
    assert (spec["minReplicas"], spec["maxReplicas"]) == (1, 4)
    # The chart says nothing on the number of pods then, or each upgrade would undo the scaling.
    rendered = yaml.safe_load_all(autoscaled.cluster.helm("get", "manifest", RELEASE))
    [consumer] = (
        document
        for document in rendered
        if (document["kind"], document["metadata"]["name"]) == ("Deployment", CONSUMER)
    )
    assert "replicas" not in consumer["spec"]


def test_load_drives_the_autoscaler(autoscaled: Installation, runs: Path):
    cluster = autoscaled.cluster
    try:
        cluster.kubectl("top", "pods")
    except CommandError as error:
        pytest.skip(f"no pod metrics (metrics-server) in this cluster: {error.output.strip()}")

    def replicas() -> int:
        return int(cluster.get("deployment", CONSUMER)["spec"]["replicas"])

    with load(autoscaled, runs, orders=ORDERS_OF_A_MINUTE, rate_per_s=12) as orders:
        until(120, "more consumers", lambda: replicas() > 2, every_s=2)
        orders.charged_once(within_s=150)
    until(150, "fewer consumers", lambda: replicas() == 1, every_s=2)
