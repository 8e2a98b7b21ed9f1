"""README of the chart, generated from its values, so that the two cannot disagree.

Each value is described by the comment that starts with `# --` directly above it, as helm-docs has it.
A value without one is an error; what is below a described value is part of it.

    python deploy/helm/readme.py            # write README.md
    python deploy/helm/readme.py --check    # exit with 1 when it would change
"""
# ruff: noqa: INP001 - a script

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import yaml

CHART: Final = Path(__file__).parent / "onceproof"
_MARK: Final = "# -- "
_TYPES: Final = {"str": "string", "bool": "bool", "seq": "list", "map": "object", "null": "int"}
_HEAD: Final = """\
# onceproof

{description}

Generated from `values.yaml` by `deploy/helm/readme.py`; do not edit.

    helm install onceproof deploy/helm/onceproof --namespace onceproof --create-namespace

By default Postgres, ElasticMQ and Jaeger run inside the release, which is for trying out and for tests.
For RDS, SQS and a collector of your own see [`ci/external.yaml`](ci/external.yaml); the other files in
`ci/` are examples too, and each is checked against the Kubernetes API.

| what | embedded | outside the release |
|---|---|---|
| database | `postgres.embedded` | `database.existingSecret` |
| queue | `sqs.embedded` | `sqs.region`, `sqs.queue`, and `sqs.existingSecret` or workload identity |
| traces | `tracing.embedded` | `tracing.otlpEndpoint`; `tracing.queryUrl` for the operator |

Crash drills need `chaos.enabled` and `operator.enabled`. Whoever reaches an admin port can stop such a
pipeline at any step: never enable chaos where real payments are made.

Values that contradict each other are refused with a message that says what to do. Helm installs the CRDs
but does not upgrade them: `kubectl apply --server-side -f deploy/helm/onceproof/crds/` does.

## Values

| Key | Type | Default | Description |
|---|---|---|---|
"""


@dataclass(frozen=True, slots=True)
class Value:
    """One row of the table."""

    key: str
    type: str
    default: str
    description: str


def values(text: str) -> Iterator[Value]:
    """The described values, in the order of the file.

    Raises:
        ValueError: a value has no description.
    """
    document = yaml.compose(text)
    if not isinstance(document, yaml.MappingNode):
        raise TypeError("the values are no mapping")
    yield from _below(document, (), text.splitlines())


def _below(mapping: yaml.MappingNode, path: tuple[str, ...], lines: list[str]) -> Iterator[Value]:
    for key, node in mapping.value:
        here = (*path, key.value)
        description = _description(lines, key.start_mark.line)
        if description:
            yield Value(".".join(here), _type(node), _default(node), description)
        elif isinstance(node, yaml.MappingNode) and node.value:
            yield from _below(node, here, lines)
        else:
            raise ValueError(
                f"{'.'.join(here)} (line {key.start_mark.line + 1}) has no `{_MARK}` comment above it"
            )


def _description(lines: list[str], line: int) -> str:
    comment: list[str] = []
    for text in reversed(lines[:line]):
        stripped = text.strip()
        if not stripped.startswith("#"):
            return ""
        if stripped.startswith(_MARK):
            return " ".join([stripped.removeprefix(_MARK), *reversed(comment)])
        comment.append(stripped.removeprefix("#").strip())
    return ""


def _type(node: yaml.Node) -> str:
    tag = node.tag.rsplit(":", 1)[-1]
    return _TYPES.get(tag, tag)


def _default(node: yaml.Node) -> str:
    value = yaml.SafeLoader("").construct_document(node)
    return f"`{json.dumps(value, ensure_ascii=False)}`"


def render(chart: Path) -> str:
    """The whole README."""
    description = yaml.safe_load((chart / "Chart.yaml").read_text())["description"]
    rows = [
        f"| `{value.key}` | {value.type} | {value.default} | {value.description.replace('|', '/')} |"
        for value in values((chart / "values.yaml").read_text())
    ]
    return _HEAD.format(description=description) + "\n".join(rows) + "\n"


def main() -> int:
    """Write or check the README; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="change nothing; 1 if it is outdated")
    options = parser.parse_args()
    path = CHART / "README.md"
    wanted = render(CHART)
    if not options.check:
        path.write_text(wanted)
        return 0
    if path.exists() and path.read_text() == wanted:
        return 0
    sys.stderr.write(f"{path} is outdated: run python deploy/helm/readme.py\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
