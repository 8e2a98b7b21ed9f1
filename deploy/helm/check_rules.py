"""Do the chart's alerts fire when they should? Runs `rules_test.yaml` with promtool.

Each rule is also taken away once, and then the tests must fail: an alert that no test needs is untested.
And each alert must have its heading in `docs/runbook.md`.
"""
# ruff: noqa: INP001 - a script that prints what it does

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

import yaml
from check import HERE, CheckError, run, template

TESTS: Final = HERE / "rules_test.yaml"
RUNBOOK: Final = HERE.parents[1] / "docs" / "runbook.md"
RUNBOOK_URL: Final = "https://runbook.test/"


def rendered() -> dict[str, Any]:
    """The rules of the chart, as a Prometheus rule file."""
    manifest = template(
        "--show-only", "templates/monitoring.yaml",
        "--set", f"metrics.rules.enabled=true,metrics.rules.runbookUrl={RUNBOOK_URL}",
        namespace="shop",
    )  # fmt: skip
    return dict(yaml.safe_load(manifest)["spec"])


def names(rules: dict[str, Any]) -> list[str]:
    """Of alerts and recording rules."""
    return [
        rule.get("alert") or rule["record"] for group in rules["groups"] for rule in group["rules"]
    ]


def without(rules: dict[str, Any], name: str) -> dict[str, Any]:
    """The rules but for one."""
    return {
        "groups": [
            group
            | {
                "rules": [
                    r for r in group["rules"] if name not in {r.get("alert"), r.get("record")}
                ]
            }
            for group in rules["groups"]
        ]
    }


def check_tests(rules: dict[str, Any], folder: Path) -> None:
    """Check the rules' syntax and run their tests.

    Raises:
        CheckError: promtool refuses them; the message has its output.
    """
    path = folder / "rules.yaml"
    path.write_text(yaml.safe_dump(rules))
    run("promtool", "check", "rules", path)
    run("promtool", "test", "rules", shutil.copy(TESTS, folder))


def check_each_is_tested(rules: dict[str, Any], folder: Path) -> None:
    """Negative control.

    Raises:
        CheckError: the tests pass without a rule.
    """
    for name in names(rules):
        try:
            check_tests(without(rules, name), folder)
        except CheckError:
            continue
        raise CheckError(f"{name} is not tested: {TESTS.name} passes without it")


def check_runbook(rules: dict[str, Any], runbook: str) -> None:
    """Every alert's link must lead somewhere.

    Raises:
        CheckError: a heading is missing, or a link is wrong.
    """
    headings = {line.lstrip("# ").strip() for line in runbook.splitlines() if line.startswith("#")}
    for group in rules["groups"]:
        for rule in group["rules"]:
            if "alert" not in rule:
                continue
            name, url = rule["alert"], rule["annotations"]["runbook_url"]
            if url != f"{RUNBOOK_URL}#{name.lower()}":
                raise CheckError(f"{name}: its link is {url}")
            if name not in headings:
                raise CheckError(f"{name}: {RUNBOOK.name} has no heading for it")


def main() -> int:
    """Run every check that the machine has the tools for; the exit code."""
    argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0]).parse_args()
    if not shutil.which("helm"):
        print("error: helm not found on PATH; install it", file=sys.stderr)
        return 2
    try:
        rules = rendered()
        check_runbook(rules, RUNBOOK.read_text())
        if not shutil.which("promtool"):
            print("promtool is not installed (Debian: prometheus): the rules' tests are skipped")
            return 0
        with tempfile.TemporaryDirectory() as folder:
            check_tests(rules, Path(folder))
            check_each_is_tested(rules, Path(folder))
    except CheckError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{len(names(rules))} rules tested, each with a heading in the runbook")
    return 0


if __name__ == "__main__":
    sys.exit(main())
