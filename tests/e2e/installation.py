"""The chart in a namespace of its own, for one run of the tests."""

from __future__ import annotations

import os
import re
import secrets
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

from tests.e2e.cluster import Cluster, CommandError
from tests.e2e.ledgers import Ledgers
from tests.e2e.proxy import ApiProxy, api_proxy, ask
from tests.e2e.traces import Traces

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy/helm/onceproof"
RELEASE = "onceproof"
PIPELINE = ("producer", "relay", "consumer", "provider")
_MESSAGES = re.compile(r"<Name>ApproximateNumberOfMessages\w*</Name>\s*<Value>(\d+)</Value>")
"""Visible, delayed, and in flight."""
_LAG = re.compile(r"^onceproof_queue_messages (\S+)$", re.MULTILINE)


@dataclass(frozen=True)
class Installation:
    """A running release, and the ways into it."""

    cluster: Cluster
    variant: str
    proxy: ApiProxy
    broker: str = "sqs"
    relay: str = "polling"

    @property
    def producer(self) -> str:
        """Base URL of the order API."""
        return self.proxy.service(f"{RELEASE}-producer", 8080)

    @property
    def traces(self) -> Traces:
        """The trace query API."""
        return Traces(self.proxy.service(f"{RELEASE}-jaeger", 16686))

    @property
    def ledgers(self) -> Ledgers:
        """SQL on both databases."""
        return Ledgers(self.cluster, f"{RELEASE}-postgres-0")

    def fresh(self, stem: str) -> str:
        """A name that nothing in the namespace has: of a drill, a campaign or an order."""
        return f"{stem.replace('.', '-').replace('_', '-')}-{secrets.token_hex(3)}"

    def settled(self) -> None:
        """Wait until every pod of the pipeline is ready, as before anything happened."""
        self.cluster.rolled_out(*(f"{RELEASE}-{component}" for component in PIPELINE))

    def armed(self) -> dict[str, list[str]]:
        """Ids of the faults that wait in each pod of the pipeline that answers."""
        found: dict[str, list[str]] = {}
        for component in PIPELINE:
            for pod in self.cluster.pods(component):
                answer = ask(f"{self.proxy.admin(pod.name)}/crash-points")
                if answer.status == HTTPStatus.OK:
                    found[pod.name] = [fault["id"] for fault in answer.json()]
        return found

    def queued(self) -> int:
        """Messages that are not acked yet, in flight or not."""
        if self.broker == "kafka":
            return self._lag()
        queue = f"{self.proxy.service(f'{RELEASE}-elasticmq', 9324)}/000000000000/orders"
        answer = ask(f"{queue}?Action=GetQueueAttributes&AttributeName.1=All")
        assert answer.status == HTTPStatus.OK, answer.body
        counts = _MESSAGES.findall(answer.body)
        assert len(counts) == 3, answer.body
        return sum(map(int, counts))

    def _lag(self) -> int:
        """What the consumers say of their topic, as they last looked."""
        found = []
        for pod in self.cluster.pods("consumer"):
            answer = ask(f"{self.proxy.admin(pod.name)}/metrics")
            if answer.status == HTTPStatus.OK:
                found += [int(float(value)) for value in _LAG.findall(answer.body)]
        assert found, "no consumer tells the length of its topic"
        return max(found)

    def upgrade(self, *words: str) -> None:
        """`helm upgrade` with some values changed."""
        self.cluster.helm(
            "upgrade", RELEASE, str(CHART), "--reuse-values", *words,
            "--wait", "--wait-for-jobs", "--timeout", "5m",
        )  # fmt: skip


def image_tag() -> str:
    """Of the images that `make e2e` has loaded."""
    return (
        os.environ.get("ONCEPROOF_IMAGE_TAG")
        or subprocess.check_output([ROOT / "deploy/images/build.sh", "--tag"], text=True).strip()
    )


@contextmanager
def namespace(context: str, name: str, *, keep: bool = False) -> Iterator[Cluster]:
    """A namespace that is deleted at the end, whatever happens; deleting it must not hang.

    Raises:
        CommandError: it is still there after two minutes.
    """
    cluster = Cluster(context, name)
    cluster.kubectl("create", "namespace", name)
    try:
        yield cluster
    finally:
        if not keep:
            cluster.delete("namespace", name, "--timeout=120s")


@contextmanager
def installed(
    cluster: Cluster, variant: str, tag: str, broker: str = "sqs", relay: str = "polling"
) -> Iterator[Installation]:
    """The chart, installed as `make kind-up` does it."""
    resources = str(CHART / "crds")
    cluster.kubectl("apply", "--server-side", "--force-conflicts", "--filename", resources)
    cluster.kubectl("wait", "--for=condition=Established", "--filename", resources)
    try:
        cluster.helm(
            "install", RELEASE, str(CHART),
            "--values", str(CHART / "ci/hardened-kind.yaml"),
            *(["--values", str(CHART / f"ci/{broker}-kind.yaml")] if broker != "sqs" else []),
            *(["--values", str(CHART / f"ci/{relay}-kind.yaml")] if relay != "polling" else []),
            "--set", f"variant={variant}", "--set-string", f"image.tag={tag}",
            "--wait", "--wait-for-jobs", "--timeout", "5m",
        )  # fmt: skip
    except CommandError as error:
        pods = cluster.kubectl("get", "pods", "--output", "wide")
        events = cluster.kubectl("get", "events", "--sort-by=.lastTimestamp")
        raise AssertionError(f"{error}\n{pods}\n{events[-4000:]}") from error
    with api_proxy(cluster) as proxy:
        yield Installation(cluster, variant, proxy, broker, relay)
