"""The process: what it says of its rights, which events start what, and that it dies with its watch."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import kopf
import pytest
import yaml
from tests.unit.test_operator_fakes import custom_object, eventually
from tests.unit.test_operator_scene import Scene, until_said
from tests.unit.test_operator_world import FakeWorld, settings

from onceproof.admin import Health
from onceproof_operator import __main__ as module
from onceproof_operator import cluster
from onceproof_operator.api import ClusterError
from onceproof_operator.handlers import _drill, _seen, registry
from onceproof_operator.settings import OperatorSettings
from onceproof_operator.tasks import Tasks
from onceproof_operator.world import World

RBAC = Path(__file__).parents[2] / "deploy/helm/onceproof/templates/operator/rbac.yaml"


class Rights(FakeWorld):
    """A world whose ServiceAccount lacks rights, until they are granted."""

    def __init__(self, *missing: str) -> None:
        super().__init__()
        self.missing = list(missing)
        self.asked = 0
        self.failing: Exception | None = None
        self.cluster.missing_rights = self.missing_rights  # type: ignore[attr-defined]

    async def missing_rights(self) -> list[str]:
        self.asked += 1
        if self.failing:
            raise self.failing
        return self.missing


@pytest.fixture
def operating(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What `operate` works with; `kopf` is what kopf's operator does."""
    given: dict[str, Any] = {"world": Rights(), "health": Health(), "kopf": asyncio.Event().wait}

    @asynccontextmanager
    async def opened(_: OperatorSettings) -> AsyncIterator[FakeWorld]:
        yield given["world"]

    @asynccontextmanager
    async def serve(_: OperatorSettings, health: Health) -> AsyncIterator[None]:
        given["health"] = health
        yield

    async def operator(*, ready_flag: asyncio.Event, **options: Any) -> None:
        given["options"] = options
        ready_flag.set()
        await given["kopf"]()

    monkeypatch.setattr(World, "open", opened)
    monkeypatch.setattr(module, "serve", serve)
    monkeypatch.setattr(module, "_ASK_AGAIN_S", 0.001)
    monkeypatch.setattr(kopf, "operator", operator)
    monkeypatch.setenv("POD_ID", "test")
    return given


async def operate(given: Mapping[str, Any]) -> asyncio.Task[None]:
    task = asyncio.create_task(module.operate(settings()))
    await eventually(lambda: "options" in given or task.done())
    return task


async def stop(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_it_watches_its_own_namespace_and_gets_ready(operating: dict[str, Any]) -> None:
    task = await operate(operating)
    await eventually(lambda: not operating["health"].reasons)
    assert operating["options"]["namespaces"] == ["test"]
    await stop(task)


async def test_it_dies_with_its_watch(operating: dict[str, Any]) -> None:
    async def fails() -> None:
        raise RuntimeError("the watch-stream has failed")

    operating["kopf"] = fails
    with pytest.raises(RuntimeError, match="watch-stream"):
        await (await operate(operating))


async def test_faults_of_an_earlier_operator_are_taken_back_first(
    operating: dict[str, Any],
) -> None:
    pod = operating["world"].cluster.add()
    pod.armed = {"12345678-kill-01": None}
    task = await operate(operating)
    assert pod.armed == {}
    await stop(task)


async def test_missing_rights_are_named_until_they_are_granted(operating: dict[str, Any]) -> None:
    world = operating["world"] = Rights("delete pods", "get pods/log")
    task = await operate(operating)
    health = operating["health"]
    await eventually(lambda: "operator" not in health.reasons)
    assert health.reasons == {"rights": "the ServiceAccount may not delete pods, get pods/log"}
    world.failing = ClusterError("away")
    asked = world.asked
    await eventually(lambda: world.asked > asked + 2)
    world.failing, world.missing = None, []
    await eventually(lambda: not health.reasons)
    asked = world.asked
    await stop(task)
    assert world.asked == asked


def test_a_wrong_configuration_is_told_in_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {
        "ONCEPROOF_NAMESPACE": "",
        "ONCEPROOF_RELEASE": "rel",
        "ONCEPROOF_DATABASE_URL": "mysql://u:s3cret@db/x",
        "ONCEPROOF_PROVIDER_DATABASE_URL": "postgresql://db/provider",
    }.items():
        monkeypatch.setenv(name, value)
    assert module.main() == 78
    said = capsys.readouterr().err
    assert "ONCEPROOF_NAMESPACE" in said
    assert "ONCEPROOF_DATABASE_URL" in said
    assert "s3cret" not in said


def test_events_are_not_logged_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    logger = logging.getLogger("kopf.objects")
    before = logger.level

    async def nothing(_: OperatorSettings) -> None: ...

    for name, value in {
        "ONCEPROOF_NAMESPACE": "test",
        "ONCEPROOF_RELEASE": "rel",
        "ONCEPROOF_DATABASE_URL": "postgresql://db/x",
        "ONCEPROOF_PROVIDER_DATABASE_URL": "postgresql://db/provider",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(module, "operate", nothing)
    monkeypatch.setattr(module, "configure_logging", lambda *_: None)
    monkeypatch.setattr(module, "configure_tracing", lambda *_, **__: None)
    try:
        assert module.main() == 0
        assert logger.level == logging.WARNING
    finally:
        logger.setLevel(before)


async def test_an_event_starts_a_drill_once_and_its_end_takes_it_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scene, tasks = Scene(monkeypatch), Tasks()
    pod, made = scene.cluster.add(), scene.make()
    for event in (None, "ADDED", "MODIFIED"):
        await _seen(tasks, event, made, lambda: _drill(scene.world.real(), made))
    await until_said(made, "Armed")
    assert len(pod.ever_armed) == 1
    await _seen(tasks, "DELETED", made, lambda: _drill(scene.world.real(), made))
    assert pod.armed == {}


async def test_a_deletion_of_what_was_never_seen_starts_nothing() -> None:
    tasks = Tasks()
    made = custom_object("d", {})
    await _seen(tasks, "DELETED", made, lambda: pytest.fail("it is gone"))
    await tasks.stop()


async def test_kopf_watches_nothing_beyond_the_role() -> None:
    handlers = registry(FakeWorld().real(), Tasks())
    given = kopf.OperatorSettings()
    [configure] = [h for h in handlers._activities.get_all_handlers() if "configure" in h.id]
    configure.fn(settings=given)  # type: ignore[call-arg]
    assert given.scanning.disabled is True
    assert given.posting.enabled is False
    assert given.watching.client_timeout is not None
    assert given.watching.server_timeout is not None
    assert given.watching.client_timeout > given.watching.server_timeout


def granted() -> set[tuple[str, str, str]]:
    """What the chart's Role allows."""
    text = re.sub(r"^.*\{\{.*$", "", RBAC.read_text(), flags=re.MULTILINE)
    rules = yaml.safe_load(text[text.index("rules:") : text.index("---")])["rules"]
    return {
        (group, resource, verb)
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def test_the_chart_grants_what_the_operator_asks_for() -> None:
    asked = {
        (group, f"{resource}/{sub}" if sub else resource, verb)
        for group, resource, sub, verbs in cluster._RIGHTS
        for verb in verbs
    }
    assert asked <= granted()
    assert ("", "pods", "get") in asked
    assert ("", "secrets", "get") not in granted()
