"""kubectl and helm on one namespace, run as a user would run them.

The context is always named: the user's current one is neither used nor changed. A command that fails
keeps its command line and output, because those are what one tries next by hand.
"""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

_TIMEOUT_S = 60.0
GROUP = "onceproof.dev"


class CommandError(Exception):
    """kubectl or helm failed.

    Args:
        command: its command line.
        output: what it printed.
    """

    def __init__(self, command: str, output: str) -> None:
        super().__init__(f"$ {command}\n{output.strip()}")
        self.output = output


@dataclass(frozen=True)
class Pod:
    """What the tests look at in a pod."""

    name: str
    uid: str
    component: str
    ready: bool
    leaving: bool
    restarts: int

    @classmethod
    def of(cls, item: Mapping[str, Any]) -> Self:
        """From the API's JSON."""
        meta, status = item["metadata"], item["status"]
        return cls(
            name=meta["name"],
            uid=meta["uid"],
            component=meta.get("labels", {}).get("app.kubernetes.io/component", ""),
            ready=any(
                c["type"] == "Ready" and c["status"] == "True" for c in status.get("conditions", ())
            ),
            leaving="deletionTimestamp" in meta,
            restarts=sum(c["restartCount"] for c in status.get("containerStatuses", ())),
        )


@dataclass(frozen=True)
class Cluster:
    """One namespace of a cluster.

    Args:
        context: of the kubeconfig.
        namespace: where everything happens.
    """

    context: str
    namespace: str

    def command(self, *words: str) -> list[str]:
        """A kubectl command line."""
        return ["kubectl", "--context", self.context, "--namespace", self.namespace, *words]

    def kubectl(self, *words: str, document: object = None, timeout_s: float = _TIMEOUT_S) -> str:
        """Standard output of kubectl; `document` is its standard input, as JSON.

        Raises:
            CommandError: it failed, or took longer than `timeout_s` seconds.
        """
        return _run(
            self.command(*words),
            None if document is None else json.dumps(document),
            timeout_s,
        )

    def helm(self, *words: str, timeout_s: float = 360.0) -> str:
        """Standard output of helm.

        Raises:
            CommandError: as of `kubectl`.
        """
        where = ["--kube-context", self.context, "--namespace", self.namespace]
        return _run(["helm", *words, *where], None, timeout_s)

    def get(self, *words: str) -> dict[str, Any]:
        """`kubectl get ... -o json`."""
        return dict(json.loads(self.kubectl("get", *words, "--output", "json")))

    def items(self, kind: str, selector: str = "") -> list[dict[str, Any]]:
        """All objects of a kind that a selector matches."""
        return list(self.get(kind, "--selector", selector)["items"])

    def create(self, document: Mapping[str, Any]) -> None:
        """Create an object."""
        self.kubectl("create", "--filename", "-", document=document)

    def create_all(self, documents: Sequence[Mapping[str, Any]]) -> None:
        """Create objects with one command, a few milliseconds apart."""
        self.create({"apiVersion": "v1", "kind": "List", "items": list(documents)})

    def patch(self, kind: str, name: str, change: Mapping[str, Any]) -> None:
        """Merge a change into an object."""
        self.kubectl("patch", kind, name, "--type=merge", "--patch", json.dumps(change))

    def refusal(self, document: Mapping[str, Any]) -> str:
        """What the API server says against an object that it must refuse.

        Raises:
            AssertionError: it took it.
        """
        try:
            self.create(document)
        except CommandError as error:
            return error.output
        meta = document["metadata"]
        self.kubectl("delete", f"{document['kind']}.{GROUP}", meta["name"], "--wait=false")
        raise AssertionError(f"the API server took {document['spec']}")

    def delete(self, kind: str, name: str, *words: str) -> None:
        """Delete an object; harmless when there is none."""
        self.kubectl("delete", kind, name, "--ignore-not-found", *words, timeout_s=150)

    def pods(self, component: str = "") -> list[Pod]:
        """The chart's pods, of one component or all."""
        selector = "app.kubernetes.io/name=onceproof"
        if component:
            selector += f",app.kubernetes.io/component={component}"
        return [Pod.of(item) for item in self.items("pods", selector)]

    def rolled_out(self, *deployments: str, within_s: float = 120) -> None:
        """Wait until all pods of Deployments are ready."""
        for name in deployments:
            self.kubectl(
                "rollout", "status", f"deployment/{name}", f"--timeout={within_s:.0f}s",
                timeout_s=within_s + 10,
            )  # fmt: skip


def _run(words: list[str], text: str | None, timeout_s: float) -> str:
    try:
        done = subprocess.run(
            words, input=text, capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise CommandError(shlex.join(words), f"no end after {timeout_s:.0f} s") from error
    if done.returncode:
        raise CommandError(shlex.join(words), done.stderr + done.stdout)
    return done.stdout
