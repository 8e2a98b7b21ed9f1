"""`helm test`: one drill from inside of the cluster, as a check that an installation keeps its promise.

Kills a consumer between its commit and its ack, and succeeds when the order was charged once.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
import uuid
from typing import Any, Final

import aiohttp

from onceproof.crashpoints import CONSUMER_AFTER_COMMIT
from onceproof_operator.cluster import GROUP, VERSION, Cluster

_TIMEOUT_S: Final = 180.0
_POLL_S: Final = 0.5


async def main() -> int:
    """Run the drill; 0 when it passed."""
    namespace = os.environ["ONCEPROOF_NAMESPACE"]
    labels = dict(
        pair.split("=", 1) for pair in os.environ["ONCEPROOF_CONSUMER_SELECTOR"].split(",")
    )
    producer = os.environ["ONCEPROOF_PRODUCER_URL"]
    order = f"helm-test-{uuid.uuid4().hex[:12]}"
    async with Cluster.connect(namespace) as cluster, aiohttp.ClientSession() as http:
        await cluster.create_object("crashdrills", _drill(order, labels))
        print(f"drill {order}: waiting until it is armed")
        async with asyncio.timeout(_TIMEOUT_S):
            if not (await _until(cluster, order, _armed)).get("verdict"):
                await _place(http, producer, order)
            status = await _until(cluster, order, lambda status: bool(status.get("verdict")))
    for condition in status.get("conditions", ()):
        print(f"{condition['type']:12} {condition['status']:8} {condition['message']}")
    print(f"verdict: {status['verdict']}: {status.get('message')}")
    return 0 if status["verdict"] == "pass" else 1


def _armed(status: dict[str, Any]) -> bool:
    conditions = status.get("conditions", ())
    return bool(status.get("verdict")) or any(
        c["type"] == "Armed" and c["status"] == "True" for c in conditions
    )


async def _until(cluster: Cluster, name: str, reached: Any) -> dict[str, Any]:  # noqa: ANN401
    while True:
        for drill in await cluster.objects("crashdrills"):
            status: dict[str, Any] = drill.get("status", {})
            if drill["metadata"]["name"] == name and reached(status):
                return status
        await asyncio.sleep(_POLL_S)


async def _place(http: aiohttp.ClientSession, producer: str, order: str) -> None:
    body = {"order_id": order, "amount": 100, "currency": "EUR"}
    headers = {"Idempotency-Key": f"place-{order}"}
    while True:
        try:
            async with http.post(f"{producer}/orders", json=body, headers=headers) as response:
                if response.status == 201:
                    return
                print(f"producer: {response.status} {await response.text()}")
        except aiohttp.ClientError as error:
            print(f"producer: {error}")
        await asyncio.sleep(_POLL_S)


def _drill(order: str, labels: dict[str, str]) -> dict[str, Any]:
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "CrashDrill",
        "metadata": {"name": order},
        "spec": {
            "target": {"selector": {"matchLabels": labels}},
            "crashPoint": CONSUMER_AFTER_COMMIT,
            "action": "kill",
            "match": {"order": order},
            "deadlineSeconds": int(_TIMEOUT_S - 30),
        },
    }


if __name__ == "__main__":
    started = time.monotonic()
    code = asyncio.run(main())
    print(f"took {time.monotonic() - started:.0f} s")
    sys.exit(code)
