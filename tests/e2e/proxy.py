"""One long-lived `kubectl proxy`: the API server's proxy to Services and pods, over plain HTTP.

Every request is balanced anew, so unlike a port-forward it does not die with a pod.
"""

from __future__ import annotations

import http.client
import json
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tests.e2e.cluster import Cluster, CommandError

_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Answer:
    """An HTTP answer; status 0 is none at all, and `body` then says why."""

    status: int
    body: str

    def json(self) -> Any:
        """The body, parsed."""
        return json.loads(self.body)


@dataclass(frozen=True)
class ApiProxy:
    """HTTP into one namespace.

    Args:
        url: of `kubectl proxy`.
        namespace: of services and pods.
    """

    url: str
    namespace: str

    def service(self, name: str, port: int) -> str:
        """Base URL of a Service."""
        return f"{self.url}/api/v1/namespaces/{self.namespace}/services/http:{name}:{port}/proxy"

    def admin(self, pod: str) -> str:
        """Base URL of a pod's admin port."""
        return f"{self.url}/api/v1/namespaces/{self.namespace}/pods/http:{pod}:9000/proxy"


def ask(
    url: str,
    document: object = None,
    headers: Mapping[str, str] | None = None,
    timeout_s: float = _TIMEOUT_S,
) -> Answer:
    """GET, or POST a document as JSON. Whatever happens is an answer."""
    body = None if document is None else json.dumps(document).encode()
    request = urllib.request.Request(
        url, data=body, headers={"Content-Type": "application/json", **(headers or {})}
    )
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as response:
            return Answer(response.status, response.read().decode(errors="replace"))
    except urllib.error.HTTPError as error:
        with error:
            return Answer(error.code, error.read().decode(errors="replace"))
    except (OSError, http.client.HTTPException) as error:
        return Answer(0, repr(error))


@contextmanager
def api_proxy(cluster: Cluster) -> Iterator[ApiProxy]:
    """Run `kubectl proxy` on a free port."""
    words = cluster.command("proxy", "--port=0", "--address=127.0.0.1")
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        try:
            line = process.stdout.readline()  # Starting to serve on 127.0.0.1:43210
            port = line.strip().rpartition(":")[2]
            if not port.isdigit():
                raise CommandError(" ".join(words), line or "it ended at once")
            yield ApiProxy(f"http://127.0.0.1:{port}", cluster.namespace)
        finally:
            process.terminate()
            process.wait(10)
