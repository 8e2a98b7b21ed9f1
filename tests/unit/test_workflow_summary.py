"""The before/after table that a workflow run shows."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / ".github" / "summary.py"
COUNTS = {
    "accepted": 3, "lost": 0, "double_charged": 0, "unexpected": 0, "mismatched": 0, "recovered": 0,
    "redeliveries": 2, "deduplicated": 1,
    "kills": {"relay.after_publish": 2, "consumer.after_commit": 1},
}  # fmt: skip


def leave(
    folder: Path,
    variant: str,
    orders: int,
    verdict: str,
    *,
    broker: str | None = None,
    relay: str = "polling",
    **counts: int,
) -> None:
    folder.mkdir(parents=True)
    run = {"variant": variant, "orders": orders, "started_at": 1.0}
    settings = {"settings": {"broker": broker, "relay": relay}} if broker else {}
    (folder / "run.json").write_text(json.dumps(run | settings))
    found = COUNTS | {"orders": orders, "verdict": verdict} | counts
    (folder / "verdict.json").write_text(json.dumps(found))


def summary(root: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, SCRIPT, root], capture_output=True, text=True, check=False
    )


def test_both_variants_stand_side_by_side_and_the_largest_run_counts(tmp_path: Path) -> None:
    leave(tmp_path / "b" / "hardened", "hardened", 300, "pass")
    leave(tmp_path / "b" / "small", "hardened", 3, "inconclusive")
    leave(tmp_path / "a" / "naive", "naive", 300, "fail", lost=4, double_charged=9)
    shown = summary(tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "| | naive | hardened |" in shown.stdout
    assert "| **lost** | 4 | 0 |" in shown.stdout
    assert "| **double-charged** | 9 | 0 |" in shown.stdout
    assert "| kills | 3 | 3 |" in shown.stdout
    assert "| verdict | fail | pass |" in shown.stdout


def test_half_a_comparison_is_a_failure_that_says_what_is_missing(tmp_path: Path) -> None:
    leave(tmp_path / "naive", "naive", 300, "fail")
    shown = summary(tmp_path)
    assert shown.returncode == 1
    assert "No run of `hardened` was left behind." in shown.stdout


def test_each_broker_has_a_table_of_its_own(tmp_path: Path) -> None:
    for broker in ("kafka", "sqs"):
        leave(tmp_path / broker / "naive", "naive", 300, "fail", broker=broker, lost=len(broker))
        leave(tmp_path / broker / "hardened", "hardened", 300, "pass", broker=broker)
    shown = summary(tmp_path)
    assert shown.returncode == 0, shown.stderr
    sqs, kafka = shown.stdout.split("## Before and after, over kafka")
    assert "| **lost** | 3 | 0 |" in sqs
    assert "| **lost** | 5 | 0 |" in kafka


def test_each_relay_has_a_table_of_its_own(tmp_path: Path) -> None:
    for relay, lost in (("polling", 3), ("cdc", 5)):
        for variant in ("naive", "hardened"):
            leave(
                tmp_path / relay / variant, variant, 300, "pass",
                broker="sqs", relay=relay, lost=lost if variant == "naive" else 0,
            )  # fmt: skip
    shown = summary(tmp_path)
    assert shown.returncode == 0, shown.stderr
    polling, cdc = shown.stdout.split("## Before and after, over sqs, relay cdc")
    assert "| **lost** | 3 | 0 |" in polling
    assert "| **lost** | 5 | 0 |" in cdc


def test_half_a_comparison_over_one_broker_is_a_failure(tmp_path: Path) -> None:
    leave(tmp_path / "naive", "naive", 300, "fail")
    leave(tmp_path / "hardened", "hardened", 300, "pass")
    leave(tmp_path / "kafka", "naive", 300, "fail", broker="kafka")
    shown = summary(tmp_path)
    assert shown.returncode == 1
    assert shown.stdout.count("No run of `hardened` was left behind.") == 1
