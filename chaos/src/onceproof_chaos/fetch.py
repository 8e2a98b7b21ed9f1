"""Brings the run folder of a finished Campaign from the cluster to this machine.

The operator serves its run folders as archives. The way there is the API server's proxy, so that no port
needs to be open and the user's own rights decide.
"""

from __future__ import annotations

import asyncio
import io
import re
import tarfile
import tempfile
from pathlib import Path
from typing import Final

from onceproof_chaos.kubectl import Kubectl, KubectlError
from onceproof_chaos.runfolder import RunFolder, RunFolderError, point_latest

_RESOURCE: Final = "campaigns.onceproof.dev"
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class FetchError(Exception):
    """There is no run folder to fetch; the message says why and what to do."""


async def fetch(kubectl: Kubectl, campaign: str, root: Path) -> RunFolder:
    """Fetch the run folder of a campaign, and point `latest` to it. One that is here stays as it is.

    Args:
        kubectl: namespace of the campaign and of its operator.
        campaign: its name.
        root: folder that gets the run folder.

    Raises:
        FetchError: no such campaign, it has not finished, or its folder is gone.
        KubectlError: the cluster cannot be asked.
        RunFolderError: what came is no complete run folder.
    """
    name = await _run_of(kubectl, campaign)
    path = root / name
    if not path.exists():
        service = await kubectl.service_path("operator", "http")
        try:
            archive = await kubectl.raw(f"{service}/runs/{name}.tar.gz")
        except KubectlError as error:
            if not error.not_found:
                raise
            raise FetchError(
                f"the operator does not have the run folder {name} any more: without a volume for "
                "its run folders they go with its pod"
            ) from error
        await asyncio.to_thread(unpack, archive, name, root)
    folder = RunFolder.open(path)
    point_latest(root, name)
    return folder


async def _run_of(kubectl: Kubectl, campaign: str) -> str:
    """Name of a finished campaign's run folder."""
    try:
        status = (await kubectl.get(_RESOURCE, campaign)).get("status") or {}
    except KubectlError as error:
        if not error.not_found:
            raise
        raise FetchError(
            f"there is no campaign {campaign!r} in this namespace; kubectl get campaigns "
            "--all-namespaces lists them"
        ) from error
    phase = status.get("phase", "Pending")
    message = f": {status['message']}" if status.get("message") else ""
    if phase == "Refused":
        raise FetchError(f"campaign {campaign!r} was refused, so there is no run{message}")
    if phase != "Finished":
        raise FetchError(
            f"campaign {campaign!r} has not finished, it is {phase}; wait for it: kubectl wait "
            f"--for=jsonpath='{{.status.phase}}'=Finished --timeout=30m campaign/{campaign}"
        )
    run = str(status.get("run") or "")
    if not _NAME.fullmatch(run):
        raise FetchError(f"campaign {campaign!r} ended without a run folder{message}")
    return run


def unpack(archive: bytes, name: str, root: Path) -> None:
    """Unpack `<name>/` of a compressed archive into `root`: all of it or nothing.

    Raises:
        RunFolderError: it is no archive of that folder, or it would write elsewhere.
    """
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root, prefix=".fetch-") as scratch:
        try:
            with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as packed:
                packed.extractall(scratch, filter="data")
        except (tarfile.TarError, OSError, EOFError) as error:
            raise RunFolderError(f"what the operator sent is no usable archive: {error}") from error
        folder = Path(scratch) / name
        if not folder.is_dir():
            raise RunFolderError(f"what the operator sent holds no folder {name}")
        folder.rename(root / name)


__all__ = ["FetchError", "fetch", "unpack"]
