"""Is the chart right? Lints and renders it with each file of `ci/`, and validates the result.

    python deploy/helm/check.py                   # helm only; kubeconform too where it is installed
    python deploy/helm/check.py --context NAME    # and the dry run of that cluster's API server

The API server knows its schemas best, and refuses what a schema cannot say; the namespace warns of what
the Pod Security Standard "restricted" forbids, and a warning is a failure. Each validator must refuse a
broken manifest first: one that accepts everything proves nothing.
"""
# ruff: noqa: INP001, S603 - a script that runs helm and kubectl and prints what it does

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import yaml

HERE: Final = Path(__file__).parent
CHART: Final = HERE / "onceproof"
RELEASE: Final = "onceproof"
NAMESPACE: Final = "onceproof-chart-check"
OLDEST_KUBERNETES: Final = "1.29.0"
NEWEST_KUBERNETES: Final = "1.34.0"

BROKEN: Final = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: broken}
spec:
  selector: {matchLabels: {app: broken}}
  template:
    metadata: {labels: {app: broken}}
    spec:
      containers: [{name: broken, image: "broken:1", imagePullPolcy: Always}]
"""
LAX: Final = BROKEN.replace("imagePullPolcy: Always", "securityContext: {privileged: true}")
"""Valid, with rights that no pod of ours has."""


class CheckError(Exception):
    """The chart is wrong; the message says how."""


Validator = Callable[[str], None]
"""Raises CheckError for manifests that are wrong."""


def run(*command: str | Path, stdin: str | None = None) -> str:
    """Standard output of a command, with its standard error where there is any.

    Raises:
        CheckError: it failed; the message has the command and all of its output.
    """
    done = subprocess.run(
        [str(part) for part in command], input=stdin, capture_output=True, text=True, check=False
    )
    output = done.stdout + done.stderr
    if done.returncode != 0:
        raise CheckError(f"$ {' '.join(map(str, command))}\n{output.strip()}")
    return output


def template(
    *arguments: str | Path, kubernetes: str = NEWEST_KUBERNETES, namespace: str = NAMESPACE
) -> str:
    """The rendered chart."""
    return run(
        "helm", "template", RELEASE, CHART, "--namespace", namespace, "--kube-version", kubernetes,
        *arguments,
    )  # fmt: skip


def check_contradictions(document: str) -> int:
    """Every entry must be refused in its own words; how many there are.

    Raises:
        CheckError: one was accepted, or refused with something else.
    """
    entries = yaml.safe_load(document)
    for entry in entries:
        values = ",".join(entry["set"])
        try:
            template("--set", values)
        except CheckError as error:
            if entry["says"] not in str(error):
                raise CheckError(f"{values}: refused without {entry['says']!r}:\n{error}") from None
        else:
            raise CheckError(f"{values}: accepted, but should be refused with {entry['says']!r}")
    return len(entries)


def check_pods(manifests: str) -> None:
    """What no schema says: names once, tokens only for who talks to the API, memory limits.

    Raises:
        CheckError: a pod is not as it should be.
    """
    for document in yaml.safe_load_all(manifests):
        if not document:
            continue
        spec, where = _pod_spec(document), f"{document['kind']}/{document['metadata']['name']}"
        if spec is None:
            continue
        component = document["metadata"]["labels"]["app.kubernetes.io/component"]
        if spec["automountServiceAccountToken"] is not (component in {"operator", "test"}):
            raise CheckError(f"{where}: automountServiceAccountToken is wrong")
        if spec.get("enableServiceLinks") is not False:
            raise CheckError(f"{where}: variables of Services would be read as settings")
        for container in spec["containers"] + spec.get("initContainers", []):
            names = [variable["name"] for variable in container.get("env", [])]
            twice = {name for name in names if names.count(name) > 1}
            if twice:
                raise CheckError(f"{where}: {', '.join(sorted(twice))} is set twice")
            if "memory" not in container["resources"].get("limits", {}):
                raise CheckError(f"{where}: no memory limit")


def _pod_spec(document: dict[str, Any]) -> dict[str, Any] | None:
    if document["kind"] == "Pod":
        return dict(document["spec"])
    if document["kind"] in {"Deployment", "StatefulSet", "Job"}:
        return dict(document["spec"]["template"]["spec"])
    return None


def kubeconform(manifests: str) -> None:
    """Against the published schemas; kinds of other projects are left out."""
    run(
        "kubeconform", "-strict", "-ignore-missing-schemas", "-summary",
        "-kubernetes-version", NEWEST_KUBERNETES,
        stdin=manifests,
    )  # fmt: skip


@contextmanager
def api_server(context: str) -> Iterator[Validator]:
    """The dry run of a cluster, in a namespace of its own that warns of lax pods."""
    kubectl = ("kubectl", "--context", context)
    in_namespace = (*kubectl, "apply", "--namespace", NAMESPACE, "--filename", "-")
    known = set(run(*kubectl, "api-versions").split())

    def dry_run(manifests: str) -> None:
        ours, foreign = [], set()
        for document in filter(None, yaml.safe_load_all(manifests)):
            if document["apiVersion"] in known:
                ours.append(document)
            else:
                foreign.add(document["kind"])
        if foreign:
            print(f"    not installed in this cluster, left out: {', '.join(sorted(foreign))}")
        # A Pod is admitted only where its ServiceAccount is really there.
        accounts = [document for document in ours if document["kind"] == "ServiceAccount"]
        if accounts:
            run(*in_namespace, stdin=yaml.safe_dump_all(accounts))
        said = run(
            *in_namespace, "--dry-run=server", "--validate=strict", stdin=yaml.safe_dump_all(ours)
        )
        if "PodSecurity" in said:
            raise CheckError(said)

    namespace = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {
            "name": NAMESPACE,
            "labels": {"pod-security.kubernetes.io/enforce": "restricted"}
            | {"pod-security.kubernetes.io/warn": "restricted"},
        },
    }
    run(*kubectl, "apply", "--filename", "-", stdin=yaml.safe_dump(namespace))
    try:
        run(*kubectl, "apply", "--dry-run=server", "--filename", CHART / "crds")
        must_refuse(dry_run, LAX, says="PodSecurity")
        yield dry_run
    finally:
        run(*kubectl, "delete", "namespace", NAMESPACE, "--wait=false")


def must_refuse(validator: Validator, manifests: str, *, says: str) -> None:
    """Negative control.

    Raises:
        CheckError: the validator accepts what is broken, or fails for another reason.
    """
    try:
        validator(manifests)
    except CheckError as error:
        if says not in str(error):
            raise
        return
    raise CheckError(f"the validator accepts a broken manifest:\n{manifests}")


def check_rendered(validators: dict[str, Validator]) -> None:
    """Lint and render with each file of `ci/`, and validate what comes out."""
    for validator in validators.values():
        must_refuse(validator, BROKEN, says="imagePullPolcy")
    for path in sorted((CHART / "ci").glob("*.yaml")):
        print(f"  {path.name}")
        run("helm", "lint", "--strict", "--kube-version", NEWEST_KUBERNETES, CHART, "-f", path)
        template("-f", path, kubernetes=OLDEST_KUBERNETES)
        manifests = template("-f", path)
        check_pods(manifests)
        for validator in validators.values():
            validator(manifests)


def main() -> int:
    """Run every check that the machine has the tools for; the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--context", help="kubectl context for the API server's dry run")
    context = parser.parse_args().context
    missing = [
        tool for tool in ("helm", *(["kubectl"] if context else [])) if not shutil.which(tool)
    ]
    if missing:
        print(f"error: {' and '.join(missing)} not found on PATH; install it", file=sys.stderr)
        return 2
    try:
        count = check_contradictions((HERE / "contradictions.yaml").read_text())
        print(f"{count} contradictions refused")
        validators: dict[str, Validator] = {}
        if shutil.which("kubeconform"):
            validators["kubeconform"] = kubeconform
        if context:
            with api_server(context) as dry_run:
                check_rendered(validators | {"API server": dry_run})
        else:
            print("no --context: the API server's dry run is skipped")
            check_rendered(validators)
    except CheckError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("the chart is right")
    return 0


if __name__ == "__main__":
    sys.exit(main())
