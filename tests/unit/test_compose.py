"""The pipeline without a cluster: the same images as in the chart, and no more rights."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pytest
import yaml

DEPLOY: Final = Path(__file__).parents[2] / "deploy"
COMPOSE: Final[dict[str, Any]] = yaml.safe_load((DEPLOY / "compose/compose.yaml").read_text())
CHART: Final[dict[str, Any]] = yaml.safe_load((DEPLOY / "helm/onceproof/values.yaml").read_text())
SERVICES: Final[dict[str, dict[str, Any]]] = COMPOSE["services"]
OURS: Final = sorted(name for name, service in SERVICES.items() if "build" in service)


def test_servers_are_those_of_the_chart() -> None:
    assert SERVICES["postgres"]["image"] == CHART["postgres"]["image"]
    assert SERVICES["elasticmq"]["image"] == CHART["sqs"]["elasticmq"]["image"]
    assert SERVICES["kafka"]["image"] == CHART["kafka"]["broker"]["image"]
    assert OURS == ["consumer", "migrations", "producer", "provider", "relay", "topics"]


@pytest.mark.parametrize("name", OURS)
def test_ours_can_write_nowhere_and_gain_nothing(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "ONCEPROOF_CHAOS_ENABLED" not in service.get("environment", {})


def test_nothing_is_published_beyond_this_machine() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", ())]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)


@pytest.mark.parametrize("file", [".env", "kafka.env"])
def test_each_broker_names_its_profile_and_every_password(file: str) -> None:
    lines = (DEPLOY / "compose" / file).read_text().splitlines()
    values = dict(line.split("=", 1) for line in lines if not line.startswith("#"))
    assert values["COMPOSE_PROFILES"] == values["ONCEPROOF_BROKER"]
    assert any(values["COMPOSE_PROFILES"] in s.get("profiles", ()) for s in SERVICES.values())
    for name in ("POSTGRES_PASSWORD", "ONCEPROOF_PASSWORD", "PROVIDER_PASSWORD"):
        assert values[name]
