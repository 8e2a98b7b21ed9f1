"""kubectl, for what needs a user's own rights in a cluster: contexts, logins, proxies are its job.

A failing command keeps its command line and its output, because those are what one tries next by hand.
"""

from __future__ import annotations

import asyncio
import json
import shlex
import shutil
from dataclasses import dataclass
from typing import Any, Final

_PROGRAM: Final = "kubectl"
_TIMEOUT: Final = "--request-timeout=60s"


class KubectlError(Exception):
    """kubectl failed. The message holds its command line and what it printed.

    Args:
        command: what was run.
        output: its standard error.
    """

    def __init__(self, command: str, output: str) -> None:
        super().__init__(f"{command}\n{output.strip()}")
        self.output = output

    @property
    def not_found(self) -> bool:
        """Whether the API server, or what it was asked to fetch from, has no such thing."""
        return "(NotFound)" in self.output


@dataclass(frozen=True, slots=True)
class Kubectl:
    """A namespace of a cluster.

    Args:
        namespace: None is the one of the context.
        context: None is the current one.
    """

    namespace: str | None = None
    context: str | None = None

    async def raw(self, path: str) -> bytes:
        """GET a path of the API server.

        Raises:
            KubectlError: it failed, or kubectl is not installed.
        """
        return await self._run("get", "--raw", path)

    async def get(self, *words: str) -> dict[str, Any]:
        """`kubectl get ... -o json` in the namespace.

        Raises:
            KubectlError: it failed, or kubectl is not installed.
        """
        namespace = ("--namespace", self.namespace) if self.namespace else ()
        document = json.loads(await self._run("get", *words, "-o", "json", *namespace))
        return dict(document)

    async def service_path(self, component: str, port: str) -> str:
        """Path of the API server that leads to a service of the chart.

        Args:
            component: value of the label `app.kubernetes.io/component`.
            port: name of the service's port.

        Raises:
            KubectlError: there is none, or there are several.
        """
        selector = f"app.kubernetes.io/name=onceproof,app.kubernetes.io/component={component}"
        words = ("services", "--selector", selector)
        found = [item["metadata"] for item in (await self.get(*words))["items"]]
        if len(found) != 1:
            names = ", ".join(item["name"] for item in found) or "none"
            raise KubectlError(
                self._command("get", *words),
                f"one service of the {component} is needed, found: {names}; is the chart installed "
                "in this namespace, once? (--namespace chooses another)",
            )
        name, namespace = found[0]["name"], found[0]["namespace"]
        return f"/api/v1/namespaces/{namespace}/services/{name}:{port}/proxy"

    def _command(self, *words: str) -> str:
        return shlex.join(self._words(*words))

    def _words(self, *words: str) -> list[str]:
        context = ("--context", self.context) if self.context else ()
        return [_PROGRAM, *words, *context, _TIMEOUT]

    async def _run(self, *words: str) -> bytes:
        if shutil.which(_PROGRAM) is None:
            raise KubectlError(
                self._command(*words),
                "kubectl is not installed, or not on PATH: https://kubernetes.io/docs/tasks/tools/",
            )
        process = await asyncio.create_subprocess_exec(
            *self._words(*words),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            output, problem = await process.communicate()
        except BaseException:
            if process.returncode is None:
                process.kill()
                await process.wait()
            raise
        if process.returncode != 0:
            raise KubectlError(self._command(*words), problem.decode(errors="replace"))
        return output


__all__ = ["Kubectl", "KubectlError"]
