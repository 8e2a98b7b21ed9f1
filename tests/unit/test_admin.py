import json
import threading
import urllib.error
import urllib.request

import pytest

from onceproof.admin import AdminServer, Health
from onceproof.crashpoints import CONSUMER_AFTER_CHARGE, Action, Armed, CrashPoints

FAULT = {"id": "f", "point": CONSUMER_AFTER_CHARGE, "action": "drop", "orders": ["o-1"]}


@pytest.fixture
def health():
    return Health()


@pytest.fixture
def points():
    return CrashPoints()


@pytest.fixture
def admin(health, points):
    server = AdminServer("127.0.0.1", 0, health, chaos=True, points=points)
    server.start()
    yield server
    server.stop()
    server.stop()  # twice is harmless


def call(server, method, path, body=None):
    request = urllib.request.Request(
        f"http://127.0.0.1:{server.port}{path}", method=method, data=body
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def test_ready_only_when_every_dependency_is(admin, health):
    assert call(admin, "GET", "/healthz")[0] == 200
    assert call(admin, "GET", "/readyz")[0] == 200
    health.not_ready("database", "refused")
    status, body = call(admin, "GET", "/readyz")
    assert status == 503
    assert json.loads(body)["database"] == "refused"
    health.ready("database")
    assert call(admin, "GET", "/readyz")[0] == 200


def test_metrics_have_the_names_of_the_contract(admin):
    text = call(admin, "GET", "/metrics")[1].decode()
    for name in (
        "onceproof_messages_processed_total", "onceproof_dedup_hits_total",
        "onceproof_outbox_pending", "onceproof_outbox_oldest_age_seconds",
        "onceproof_publish_failures_total", "onceproof_visibility_extensions_total",
        "onceproof_stale_acks_total", "onceproof_charge_seconds", "onceproof_end_to_end_seconds",
    ):  # fmt: skip
        assert f"# TYPE {name} " in text, name


def test_arm_list_disarm(admin, points):
    status, body = call(admin, "PUT", "/crash-points", json.dumps([FAULT]).encode())
    assert (status, [f["id"] for f in json.loads(body)]) == (200, ["f"])
    assert [f.id for f in points.armed()] == ["f"]
    assert json.loads(call(admin, "GET", "/crash-points")[1])[0]["orders"] == ["o-1"]
    assert json.loads(call(admin, "DELETE", "/crash-points?id=other")[1]) != []
    assert json.loads(call(admin, "DELETE", "/crash-points?id=f")[1]) == []


@pytest.mark.parametrize(
    "body", [b"", b"{", b"{}", b"[1]", json.dumps([FAULT | {"point": "x"}]).encode()]
)
def test_a_malformed_arm_is_a_400_and_arms_nothing(admin, points, body):
    status, answer = call(admin, "PUT", "/crash-points", body)
    assert status == 400
    assert "error" in json.loads(answer)
    assert points.armed() == []


def test_a_long_poll_ends_when_the_point_is_reached(admin, points):
    points.arm([Armed("s", CONSUMER_AFTER_CHARGE, Action.STALL, park_s=0.2)])
    thread = threading.Thread(target=points.hit, args=(CONSUMER_AFTER_CHARGE, "o-1", 2, "e-1"))
    threading.Timer(0.05, thread.start).start()
    status, body = call(admin, "GET", "/crash-points/reached?wait=10")
    [reached] = json.loads(body)
    assert status == 200
    assert (reached["fault"], reached["order"], reached["attempt"]) == ("s", "o-1", 2)
    assert json.loads(call(admin, "GET", "/crash-points/reached?after=1")[1]) == []
    thread.join()


def test_crash_points_are_absent_unless_chaos_is_enabled(health):
    server = AdminServer("127.0.0.1", 0, health)
    server.start()
    try:
        assert call(server, "GET", "/readyz")[0] == 200
        for method, path in [
            ("GET", "/crash-points"), ("PUT", "/crash-points"), ("DELETE", "/crash-points"),
            ("GET", "/crash-points/reached"),
        ]:  # fmt: skip
            assert call(server, method, path)[0] == 404
    finally:
        server.stop()
