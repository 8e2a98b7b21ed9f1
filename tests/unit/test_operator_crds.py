"""The CRDs against the code: a structural schema drops what it does not know, and nobody says so.

`problems` is what the fakes of the other tests hold every written status against.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from onceproof.crashpoints import ALL_POINTS, CRASH_POINTS, MAX_PARK_S, Action
from onceproof.variants import FIX_NAMES
from onceproof_chaos.verdict import Result, Verdict
from onceproof_operator.campaign_spec import as_status, recovery_as_status
from onceproof_operator.cluster import GROUP, VERSION
from onceproof_operator.drill import STEPS
from onceproof_operator.verification import Check

CRDS = Path(__file__).parents[2] / "deploy" / "helm" / "onceproof" / "crds"
TYPES: Mapping[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "integer": int,
    "number": (int, float),
}


def crd(plural: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((CRDS / f"{plural}.yaml").read_text())
    return found


def schema(plural: str, part: str) -> dict[str, Any]:
    [version] = crd(plural)["spec"]["versions"]
    found: dict[str, Any] = version["schema"]["openAPIV3Schema"]["properties"][part]
    return found


def problems(value: Any, node: Mapping[str, Any], path: str = "status") -> Iterator[str]:
    """What the API server would refuse, or drop without a word."""
    kind = node["type"]
    fits = isinstance(value, TYPES[kind]) and isinstance(value, bool) is (kind == "boolean")
    if not fits:
        yield f"{path}: {value!r} is no {kind}"
        return
    if "enum" in node and value not in node["enum"]:
        yield f"{path}: {value!r} is none of {node['enum']}"
    if node.get("format") == "date-time":
        try:
            datetime.fromisoformat(value)
        except ValueError:
            yield f"{path}: {value!r} is no date-time"
    if kind == "array":
        for number, item in enumerate(value):
            yield from problems(item, node["items"], f"{path}[{number}]")
    if kind == "object":
        yield from (f"{path}: {key} is required" for key in {*node.get("required", ())} - {*value})
        for key, item in value.items():
            known = node.get("properties", {}).get(key, node.get("additionalProperties"))
            if known is None:
                yield f"{path}.{key} would be dropped"
            else:
                yield from problems(item, known, f"{path}.{key}")


@pytest.mark.parametrize("plural", ["crashdrills", "campaigns"])
def test_group_version_and_status_are_what_the_operator_asks_for(plural: str) -> None:
    found = crd(plural)
    [version] = found["spec"]["versions"]
    assert found["metadata"]["name"] == f"{plural}.{GROUP}"
    assert (found["spec"]["group"], version["name"]) == (GROUP, VERSION)
    assert found["spec"]["scope"] == "Namespaced"
    assert version["subresources"] == {"status": {}}


@pytest.mark.parametrize("plural", ["crashdrills", "campaigns"])
def test_printed_columns_are_fields_of_the_schema(plural: str) -> None:
    [version] = crd(plural)["spec"]["versions"]
    for column in version["additionalPrinterColumns"]:
        _, part, *rest = column["jsonPath"].split(".")
        if part == "metadata":
            continue
        node = schema(plural, part)
        for name in rest:
            node = node["properties"][name]


def test_crash_points_and_actions_are_those_of_the_library() -> None:
    properties = schema("crashdrills", "spec")["properties"]
    assert tuple(properties["crashPoint"]["enum"]) == ALL_POINTS
    assert properties["action"]["enum"] == [action.value for action in Action]
    assert properties["stallSeconds"]["maximum"] <= MAX_PARK_S


def test_kills_of_a_campaign_know_the_points_at_which_a_kill_makes_sense() -> None:
    kills = schema("campaigns", "spec")["properties"]["faults"]["properties"]["kills"]
    [rule] = kills["x-kubernetes-validations"]
    assert tuple(re.findall(r"'([a-z_.]+)'", rule["rule"])) == CRASH_POINTS
    assert all(point in rule["message"] for point in CRASH_POINTS)
    faults = schema("campaigns", "spec")["properties"]["faults"]
    assert set(faults["default"]["kills"]) == set(CRASH_POINTS)
    assert kills["maxProperties"] == len(CRASH_POINTS)


def test_variants_are_those_of_the_library() -> None:
    pattern = schema("campaigns", "spec")["properties"]["variant"]["pattern"]
    known = ["naive", "hardened", *(f"hardened-{fix}" for fix in FIX_NAMES)]
    assert all(re.search(pattern, name) for name in known)
    [fixes] = re.findall(r"hardened\(-\((.*?)\)\)\?", pattern)
    assert set(fixes.split("|")) == set(FIX_NAMES)
    for wrong in ("naive-inbox", "hardened-", "hardened-x", "Hardened", "hardened-inbox-outbox"):
        assert not re.search(pattern, wrong)


def test_a_verdict_of_a_drill_has_its_place() -> None:
    status = schema("crashdrills", "status")
    check = Check("charges", "1", "2", ok=False, evidence="SQL").as_json()
    conditions = [
        {
            "type": step,
            "status": "True",
            "reason": "R",
            "message": "m",
            "lastTransitionTime": "2026-01-01T00:00:00.000001Z",
        }
        for step in STEPS
    ]
    assert list(problems({"checks": [check], "conditions": conditions}, status)) == []
    assert status["properties"]["conditions"]["maxItems"] >= len(STEPS)
    assert status["properties"]["verdict"]["enum"] == [result.value for result in Result]


def test_a_verdict_of_a_campaign_has_its_place() -> None:
    counts = Verdict.__slots__[1:11]
    document = dict.fromkeys(counts, 3) | {
        "verdict": "fail",
        "dedup_hit_rate": 0.25,
        "kills": {CRASH_POINTS[0]: 2},
        "reasons": ["a reason"],
        "breaches": [],
    }
    verdict = Verdict.from_json(document)
    found = as_status(verdict) | recovery_as_status((1.5, 3.0))
    assert list(problems(found, schema("campaigns", "status"))) == []
    assert found["kills"] == 2
    assert recovery_as_status(None) == {}


@pytest.mark.parametrize(
    ("status", "says"),
    [
        ({"restarts": 1}, "status.restarts would be dropped"),
        ({"pod": {"name": "a", "node": "b"}}, "status.pod.node would be dropped"),
        ({"verdict": "maybe"}, "'maybe' is none of"),
        ({"captures": "1"}, "status.captures: '1' is no integer"),
        ({"captures": True}, "is no integer"),
        ({"armedAt": "yesterday"}, "is no date-time"),
        ({"checks": [{"name": "a", "extra": 1}]}, "checks[0].extra would be dropped"),
        ({"conditions": [{"type": "Armed"}]}, "lastTransitionTime is required"),
    ],
)
def test_what_has_no_place_is_found(status: dict[str, Any], says: str) -> None:
    assert any(says in problem for problem in problems(status, schema("crashdrills", "status")))
