"""What the API server and helm refuse before anything begins: each time with a word on what is wrong."""

from __future__ import annotations

import pytest
from tests.e2e import campaigns, drills
from tests.e2e.cluster import CommandError
from tests.e2e.installation import CHART, RELEASE, Installation

from onceproof.crashpoints import CONSUMER_AFTER_COMMIT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(420)]

POINT = CONSUMER_AFTER_COMMIT
NOBODY = {"matchLabels": {"app.kubernetes.io/component": "nobody"}}


def refused(changed: dict[str, object] | list[str], says: str):
    """A case whose id is the input."""
    words = (
        [f"{name}={value}" for name, value in changed.items()]
        if isinstance(changed, dict)
        else changed
    )
    return pytest.param(changed, says, id=",".join(words).replace(" ", ""))


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        refused({"point": "consumer.after_lunch"}, "consumer.after_charge"),
        refused({"selector": {}}, "the selector is empty and would match every pod"),
        refused({"selector": {"matchLabels": {}}}, "the selector is empty"),
        refused(
            {"selector": {"matchExpressions": [{"key": "a", "operator": "In"}]}}, "need values"
        ),
        refused({"deadline_s": 0}, "should be greater than or equal to 1"),
        refused({"deadline_s": 3601}, "should be less than or equal to 3600"),
        refused({"order": "no spaces"}, "should match"),
        refused({"action": "explode"}, '"kill", "stall", "drop"'),
        refused({"point": "provider.after_capture"}, "only action drop"),
        refused({"stallSeconds": 5}, "goes with action stall only"),
        refused({"action": "stall", "stallSeconds": 120}, "the stall must end before"),
        refused({"target": {}}, "spec.target.selector: Required value"),
    ],
)
def test_the_api_server_refuses_a_drill(installation: Installation, changed, says: str):
    name = installation.fresh("refused")
    document = drills.manifest(name, **({"point": POINT, "order": name} | changed))
    assert says in installation.cluster.refusal(document)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        refused({"kills": 0}, "a campaign without faults proves nothing"),
        refused(
            {"faults": {"kills": {"consumer.after_lunch": 1}}}, "unknown crash point; known are"
        ),
        refused({"variant": "harder"}, "should match"),
        refused({"orders": 0}, "should be greater than or equal to 1"),
        refused({"ratePerSecond": 0}, "should be greater than or equal to 0.1"),
        refused({"deadlineSeconds": 0}, "should be greater than or equal to 30"),
    ],
)
def test_the_api_server_refuses_a_campaign(
    installation: Installation, variant: str, changed, says: str
):
    name = installation.fresh("refused")
    document = campaigns.manifest(name, **({"variant": variant} | changed))
    assert says in installation.cluster.refusal(document)


def test_a_drill_is_not_changed_once_it_is_made(installation: Installation):
    # Its selector matches nothing, so that it waits.
    drill = drills.make(installation, "changed", point=POINT, selector=NOBODY)
    with pytest.raises(CommandError, match="a drill is not changed once it is made"):
        installation.cluster.kubectl(
            "patch", drills.KIND, drill.name, "--type=merge",
            "--patch", '{"spec": {"deadlineSeconds": 7}}',
        )  # fmt: skip
    drill.delete()


@pytest.mark.parametrize(
    ("values", "says"),
    [
        refused(
            ["operator.enabled=true", "chaos.enabled=false"], "set chaos.enabled=true in a test"
        ),
        refused(["postgres.embedded=false"], "database.existingSecret is empty: set it"),
        refused(["sqs.embedded=false"], "sqs.region is empty"),
        refused(["autoscaling.enabled=true", "keda.enabled=true"], "two autoscalers would fight"),
        refused(["autoscaling.enabled=true", "consumer.replicas=3"], "remove it"),
        refused(["chaos.timing.providerTimeoutSeconds=5"], "must be below the visibility timeout"),
        refused(["variant=harder"], "variant"),
        refused(["typo=1"], "typo"),
    ],
)
def test_chart_values_that_contradict_each_other(installation: Installation, values, says: str):
    options = [word for value in values for word in ("--set", value)]
    with pytest.raises(CommandError) as refusal:
        installation.cluster.helm(
            "template", RELEASE, str(CHART), "--kube-version=1.34",
            "--values", str(CHART / "ci/hardened-kind.yaml"), *options,
        )  # fmt: skip
    assert says in refusal.value.output
