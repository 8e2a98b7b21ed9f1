"""What the operator asks of the Kubernetes API, in its own namespace only.

The one dangerous call is `delete_pod`. It carries the uid of the pod that reached the crash point as a
precondition, so a replacement that took the name meanwhile is never hit, also when it is repeated.

Every method raises `ForbiddenError` or `ClusterError`, see `onceproof_operator.api`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final, Self

import aiohttp
from kubernetes_asyncio import client, config
from kubernetes_asyncio.client.exceptions import ApiException
from kubernetes_asyncio.config import ConfigException

from onceproof.errors import ConfigurationError
from onceproof_operator.api import REQUEST_S, ClusterError, ask, unreachable

GROUP: Final = "onceproof.dev"
VERSION: Final = "v1alpha1"
_ADMIN: Final = "admin"
_ADMIN_PORT: Final = 9000
_GONE: Final = frozenset({HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT})
_STATUS_PATIENCE_S: Final = 600.0
"""A status is the operator's only memory: what it holds must not get lost while the server is away."""
_RIGHTS: Final = (
    ("", "pods", "", ("get", "list", "watch", "delete")),
    ("", "pods", "log", ("get",)),
    ("batch", "jobs", "", ("create", "get", "delete")),
    (GROUP, "crashdrills", "", ("list", "watch")),
    (GROUP, "crashdrills", "status", ("patch",)),
    (GROUP, "campaigns", "", ("list", "watch")),
    (GROUP, "campaigns", "status", ("patch",)),
)


@dataclass(frozen=True, slots=True)
class Pod:
    """What matters of a pod. `restarts` and `exit_code` are of the container with the admin port."""

    name: str
    uid: str
    ip: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    phase: str = "Pending"
    ready: bool = False
    leaving: bool = False
    restarts: int = 0
    exit_code: int | None = None
    admin_port: int = _ADMIN_PORT

    @property
    def admin_url(self) -> str:
        """Base URL of its admin port."""
        return f"http://{f'[{self.ip}]' if ':' in self.ip else self.ip}:{self.admin_port}"

    @property
    def component(self) -> str:
        """Which part of the pipeline it is."""
        return self.labels.get("app.kubernetes.io/component", "")

    @property
    def chaos_enabled(self) -> bool:
        """Whether its owner agreed to crash points."""
        return self.labels.get("onceproof.dev/chaos") == "enabled"

    @classmethod
    def of(cls, found: Any) -> Self:  # noqa: ANN401 - the client ships no types
        """From the client's object."""
        status = found.status
        ports = {
            c.name: p.container_port
            for c in found.spec.containers
            for p in c.ports or ()
            if p.name == _ADMIN
        }
        container = next((c for c in status.container_statuses or () if c.name in ports), None)
        states = (container.state, container.last_state) if container else ()
        ended = next((state.terminated for state in states if state and state.terminated), None)
        return cls(
            name=found.metadata.name,
            uid=found.metadata.uid,
            ip=status.pod_ip or "",
            labels=found.metadata.labels or {},
            phase=status.phase or "",
            ready=any(c.type == "Ready" and c.status == "True" for c in status.conditions or ()),
            leaving=found.metadata.deletion_timestamp is not None,
            restarts=container.restart_count if container else 0,
            exit_code=ended.exit_code if ended else None,
            admin_port=next(iter(ports.values()), _ADMIN_PORT),
        )


class Cluster:
    """The API server, seen from one namespace. Open it with `connect`."""

    def __init__(self, api: Any, namespace: str) -> None:  # noqa: ANN401 - as above
        self.namespace = namespace
        # The client's annotations leave out what it passes on, so they are of no use here.
        self._core: Any = client.CoreV1Api(api)
        self._batch: Any = client.BatchV1Api(api)
        self._objects: Any = client.CustomObjectsApi(api)
        self._access: Any = client.AuthorizationV1Api(api)
        self._version: Any = client.VersionApi(api)

    @classmethod
    @asynccontextmanager
    async def connect(cls, namespace: str) -> AsyncIterator[Self]:
        """With the pod's ServiceAccount, or with a kubeconfig outside of a cluster.

        Raises:
            ConfigurationError: there is neither.
        """
        try:
            config.load_incluster_config()  # type: ignore[no-untyped-call]
        except ConfigException:
            try:
                await config.load_kube_config()
            except ConfigException as error:
                raise ConfigurationError(f"no cluster to connect to: {error}") from error
        async with client.ApiClient() as api:
            yield cls(api, namespace)

    async def pods(self, selector: str) -> list[Pod]:
        """Pods that a label selector matches, oldest first."""
        found = await ask(
            "list pods",
            self._core.list_namespaced_pod,
            self.namespace,
            label_selector=selector,
        )
        items = sorted(found.items, key=lambda item: item.metadata.creation_timestamp)
        return [Pod.of(item) for item in items]

    async def pod(self, name: str) -> Pod | None:
        """One pod, or None."""
        try:
            found = await ask("get pods", self._core.read_namespaced_pod, name, self.namespace)
        except ClusterError as error:
            if error.status == HTTPStatus.NOT_FOUND:
                return None
            raise
        return Pod.of(found)

    async def delete_pod(self, pod: Pod, *, grace_s: int = 0) -> bool:
        """Delete exactly this incarnation; False when it is gone or was replaced already.

        Also False when the answer to a first try got lost and the next one finds it gone: who deleted
        it cannot be proved then.
        """
        options = client.V1DeleteOptions(
            grace_period_seconds=grace_s, preconditions=client.V1Preconditions(uid=pod.uid)
        )
        delete = self._core.delete_namespaced_pod
        try:
            await ask("delete pods", delete, pod.name, self.namespace, body=options)
        except ClusterError as error:
            if error.status in _GONE:
                return False
            raise
        return True

    async def objects(self, plural: str) -> list[dict[str, Any]]:
        """All CrashDrills or Campaigns, oldest first."""
        found = await ask(
            f"list {plural}",
            self._objects.list_namespaced_custom_object,
            *(GROUP, VERSION, self.namespace, plural),
        )
        return sorted(found["items"], key=lambda item: item["metadata"]["creationTimestamp"])

    async def create_object(self, plural: str, manifest: Mapping[str, Any]) -> None:
        """Create a CrashDrill or Campaign."""
        await ask(
            f"create {plural}",
            self._objects.create_namespaced_custom_object,
            *(GROUP, VERSION, self.namespace, plural, manifest),
        )

    async def write_status(self, plural: str, name: str, status: Mapping[str, Any]) -> None:
        """Write fields of an object's status, None removes one; harmless when the object is gone."""
        try:
            await ask(
                f"patch {plural}/status",
                self._objects.patch_namespaced_custom_object_status,
                *(GROUP, VERSION, self.namespace, plural, name, {"status": status}),
                patience_s=_STATUS_PATIENCE_S,
                also_passing=frozenset({HTTPStatus.CONFLICT}),
                _content_type="application/merge-patch+json",
            )
        except ClusterError as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise

    async def create_job(self, manifest: Mapping[str, Any]) -> None:
        """Create a Job; harmless when it exists."""
        try:
            await ask("create jobs", self._batch.create_namespaced_job, self.namespace, manifest)
        except ClusterError as error:
            if error.status != HTTPStatus.CONFLICT:
                raise

    async def job_finished(self, name: str) -> bool | None:
        """Whether a Job succeeded (True) or failed or is gone (False); None while it runs."""
        try:
            job = await ask("get jobs", self._batch.read_namespaced_job, name, self.namespace)
        except ClusterError as error:
            if error.status == HTTPStatus.NOT_FOUND:
                return False
            raise
        for condition in job.status.conditions or ():
            if condition.status == "True" and condition.type in {"Complete", "Failed"}:
                return bool(condition.type == "Complete")
        return None

    async def delete_job(self, name: str) -> None:
        """Delete a Job with its pods; harmless when there is none."""
        try:
            await ask(
                "delete jobs",
                self._batch.delete_namespaced_job,
                name,
                self.namespace,
                propagation_policy="Background",
            )
        except ClusterError as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise

    async def log(self, pod: str) -> str:
        """Everything that a pod wrote and the node still keeps."""

        async def whole(**options: object) -> bytes:
            async with await self._open_log(pod, **options) as response:
                return bytes(await response.content.read())

        text: bytes = await ask("get pods/log", whole)
        return text.decode(errors="replace")

    async def log_lines(self, pod: str) -> AsyncIterator[str]:
        """Lines of a pod's log as they come, until it ends; ClusterError when the stream breaks."""
        endless = aiohttp.ClientTimeout(total=None, sock_connect=REQUEST_S)
        response = await ask(
            "get pods/log", self._open_log, pod, follow=True, _request_timeout=endless
        )
        try:
            async with response:
                async for line in response.content:
                    yield line.decode(errors="replace").rstrip("\n")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise unreachable("get pods/log", error) from error

    async def _open_log(self, pod: str, **options: object) -> aiohttp.ClientResponse:
        """The raw answer: the client would take a log that happens to be JSON for an object."""
        response: aiohttp.ClientResponse = await self._core.read_namespaced_pod_log(
            pod, self.namespace, _preload_content=False, **options
        )
        # The client looks at the status only of answers that it reads itself.
        if response.status != HTTPStatus.OK:
            error = ApiException(status=response.status, reason=response.reason)
            error.body = await response.read()
            raise error
        return response

    async def version(self) -> str:
        """The API server's version, e.g. `v1.34.4`."""
        return str((await ask("get version", self._version.get_code)).git_version)

    async def missing_rights(self) -> list[str]:
        """Rights that the operator needs and does not have, e.g. `delete pods`."""
        asked = [
            (group, resource, sub, verb)
            for group, resource, sub, verbs in _RIGHTS
            for verb in verbs
        ]
        allowed = await asyncio.gather(*(self._allowed(*right) for right in asked))
        return [
            f"{verb} {resource}{f'/{sub}' if sub else ''}"
            for (_, resource, sub, verb), yes in zip(asked, allowed, strict=True)
            if not yes
        ]

    async def _allowed(self, group: str, resource: str, sub: str, verb: str) -> bool:
        review = client.V1SelfSubjectAccessReview(
            spec=client.V1SelfSubjectAccessReviewSpec(
                resource_attributes=client.V1ResourceAttributes(
                    namespace=self.namespace,
                    group=group,
                    resource=resource,
                    subresource=sub or None,
                    verb=verb,
                )
            )
        )
        answer = await ask(
            "create selfsubjectaccessreviews",
            self._access.create_self_subject_access_review,
            review,
        )
        return bool(answer.status.allowed)


def selector_text(selector: Mapping[str, Any]) -> str:
    """A LabelSelector as the API's query parameter takes it.

    Raises:
        ValueError: it is empty, which would mean every pod.
    """
    parts = [f"{key}={value}" for key, value in (selector.get("matchLabels") or {}).items()]
    for expression in selector.get("matchExpressions") or ():
        key, values = expression["key"], ",".join(expression.get("values") or ())
        parts.append(
            {
                "In": f"{key} in ({values})",
                "NotIn": f"{key} notin ({values})",
                "Exists": key,
                "DoesNotExist": f"!{key}",
            }[expression["operator"]]
        )
    if not parts:
        raise ValueError("the selector is empty and would match every pod")
    return ",".join(parts)
