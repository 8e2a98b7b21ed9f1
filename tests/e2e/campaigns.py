"""Campaigns: made, watched, and their run folders fetched."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.e2e.cluster import GROUP
from tests.e2e.drills import condition, decided
from tests.e2e.installation import ROOT, Installation
from tests.e2e.waiting import until

from onceproof.crashpoints import CRASH_POINTS

KIND = f"campaigns.{GROUP}"
_PROGRAM = ROOT / ".venv/bin/onceproof"


def manifest(
    name: str, *, variant: str, orders: int = 300, kills: int = 3, **fields: object
) -> dict[str, Any]:
    """A Campaign with as many kills at each crash point."""
    return {
        "apiVersion": f"{GROUP}/v1alpha1",
        "kind": "Campaign",
        "metadata": {"name": name},
        "spec": {
            "variant": variant,
            "orders": orders,
            "faults": {"kills": dict.fromkeys(CRASH_POINTS, kills)},
            **fields,
        },
    }


@dataclass(frozen=True)
class Campaign:
    """One Campaign in the cluster."""

    installation: Installation
    name: str

    def status(self) -> dict[str, Any]:
        """Its status now."""
        return dict(self.installation.cluster.get(KIND, self.name).get("status", {}))

    def condition(self, kind: str, *, within_s: float = 20) -> dict[str, Any]:
        """A condition, as soon as it is known to be true or false."""
        return until(
            within_s, f"{kind} of {self.name}", lambda: decided(condition(self.status(), kind))
        )

    def verdict(self, *, within_s: float) -> dict[str, Any]:
        """Its status once it has finished or was refused."""
        self.installation.cluster.kubectl(
            "wait", f"{KIND}/{self.name}", "--for=jsonpath={.status.verdict}",
            f"--timeout={within_s:.0f}s", timeout_s=within_s + 10,
        )  # fmt: skip
        return self.status()

    def fetch(self, to: Path) -> Path:
        """`onceproof campaign fetch`; the run folder."""
        cluster = self.installation.cluster
        code, output = onceproof(
            "campaign", "fetch", self.name, "--to", str(to),
            "--namespace", cluster.namespace, "--context", cluster.context,
        )  # fmt: skip
        folder = to / str(self.status()["run"])
        assert folder.is_dir(), f"nothing was fetched (exit code {code}):\n{output}"
        return folder

    def delete(self) -> None:
        """Delete it."""
        self.installation.cluster.delete(KIND, self.name)


def make(installation: Installation, stem: str, **spec: Any) -> Campaign:
    """Make a campaign."""
    name = installation.fresh(stem)
    spec.setdefault("variant", installation.variant)
    installation.cluster.create(manifest(name, **spec))
    return Campaign(installation, name)


def verify(folder: Path) -> tuple[int, Mapping[str, Any]]:
    """`onceproof verify`: exit code and the counts."""
    code, output = onceproof("verify", str(folder), "--json")
    return code, json.loads(output)


def onceproof(*words: str) -> tuple[int, str]:
    """Exit code and standard output of the command line program."""
    done = subprocess.run(
        [str(_PROGRAM), *words], capture_output=True, text=True, timeout=120, check=False
    )
    return done.returncode, done.stdout or done.stderr
