"""The chart's own tools, and what can be said about the chart without helm."""

import json
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import yaml

from onceproof.variants import FIX_NAMES
from onceproof_relay.cdc import server
from onceproof_relay.cdc.properties import PASSWORD_VARIABLE
from onceproof_relay.cdc.settings import CdcSettings

HELM = Path(__file__).parents[2] / "deploy" / "helm"
CHART = HELM / "onceproof"


def script(name):
    spec = spec_from_file_location(f"chart_{name}", HELM / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


readme = script("readme")
check = script("check")
schema = json.loads((CHART / "values.schema.json").read_text())


def test_readme_is_generated_from_the_values():
    assert (CHART / "README.md").read_text() == readme.render(CHART)


def test_a_value_without_a_description_is_refused():
    with pytest.raises(ValueError, match=r"a\.b \(line 2\)"):
        list(readme.values("a:\n  b: 1\n"))


def test_a_description_may_go_over_several_lines():
    (value,) = readme.values("a:\n  # -- First,\n  # second.\n  b: {c: 1}\n")
    assert (value.key, value.default, value.description) == ("a.b", '`{"c": 1}`', "First, second.")


def resolved(node):
    reference = node.get("$ref")
    return schema["definitions"][reference.rsplit("/", 1)[1]] if reference else node


def differences(values, node, path=()):
    """Keys that are in the values or in the schema alone, and objects that are open."""
    node = resolved(node)
    if "properties" not in node or not isinstance(values, dict):
        return
    if node.get("additionalProperties") is not False:
        yield (*path, "is open")
    if node["properties"].keys() <= {"requests", "limits", "cpu", "memory", "ephemeral-storage"}:
        return  # a container need not have all of them
    for key in values.keys() ^ node["properties"].keys():
        yield (*path, key)
    for key in values.keys() & node["properties"].keys():
        yield from differences(values[key], node["properties"][key], (*path, key))


def test_schema_is_closed_and_has_exactly_the_values():
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert list(differences(values, schema)) == []
    assert list(differences({**values, "typo": 1}, schema)) == [("typo",)]


def test_schema_knows_exactly_the_variants():
    known = {"naive", "hardened", *(f"hardened-{fix}" for fix in FIX_NAMES)}
    assert set(schema["properties"]["variant"]["enum"]) == known


def test_debezium_is_told_in_a_pod_what_it_is_told_as_a_child():
    template = (CHART / "templates" / "_debezium.tpl").read_text()
    for name, value in server.ENVIRONMENT.items():
        quoted = f'"{value}"' if value == "false" else value
        assert f"{{name: {name}, value: {quoted}}}" in template
    assert f'"{PASSWORD_VARIABLE}"' in template
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert values["relay"]["debezium"]["javaOptions"] == " ".join(server.JAVA)


def test_defaults_of_the_relay_by_change_data_capture():
    values = yaml.safe_load((CHART / "values.yaml").read_text())["relay"]["debezium"]
    fields = CdcSettings.model_fields
    assert values["slot"] == fields["slot"].default
    assert values["heartbeatSeconds"] == fields["heartbeat_s"].default
    health = f"containerPort: {fields['debezium_port'].default}"
    assert health in (CHART / "templates" / "_debezium.tpl").read_text()


def pod(**changes):
    container = {"name": "c", "env": [], "resources": {"limits": {"memory": "1Mi"}}}
    spec = {"automountServiceAccountToken": False, "enableServiceLinks": False}
    labels = {"app.kubernetes.io/component": "consumer"}
    return yaml.safe_dump(
        {
            "kind": "Pod",
            "metadata": {"name": "p", "labels": labels},
            "spec": spec | {"containers": [container | changes.pop("container", {})]} | changes,
        }
    )


def test_a_pod_as_it_should_be():
    check.check_pods(pod())


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"automountServiceAccountToken": True}, "automountServiceAccountToken"),
        ({"enableServiceLinks": True}, "variables of Services"),
        ({"container": {"env": [{"name": "A"}, {"name": "A"}]}}, "A is set twice"),
        ({"container": {"resources": {}}}, "no memory limit"),
    ],
)
def test_a_pod_as_it_should_not_be(changes, says):
    with pytest.raises(check.CheckError, match=says):
        check.check_pods(pod(**changes))


def test_a_validator_that_accepts_everything_is_refused():
    with pytest.raises(check.CheckError, match="accepts a broken manifest"):
        check.must_refuse(lambda _: None, check.BROKEN, says="imagePullPolcy")


def test_a_validator_that_fails_for_another_reason_is_refused():
    def unreachable(_):
        raise check.CheckError("no route to host")

    with pytest.raises(check.CheckError, match="no route to host"):
        check.must_refuse(unreachable, check.BROKEN, says="imagePullPolcy")
