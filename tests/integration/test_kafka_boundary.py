"""Where Kafka's exactly-once ends: one kill behind the same transactions, with the inbox and without."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.programs import ONCEPROOF, run_program

pytestmark = pytest.mark.slow

TRUSTING, HARDENED = "transactions", "hardened"


@pytest.mark.parametrize("point", ["consumer.after_charge", "consumer.after_commit"])
@pytest.mark.parametrize("variant", [TRUSTING, HARDENED])
def test_transactions_end_where_the_database_begins(
    database_url: str, kafka_bootstrap: str, tmp_path: Path, point: str, variant: str
) -> None:
    done = run_program(
        *ONCEPROOF, "drill", point, "--variant", variant, "--broker", "kafka", "--transactions",
        "--kafka-bootstrap", kafka_bootstrap, "--database-url", database_url,
        "--run-dir", str(tmp_path), "--json",
    )  # fmt: skip
    assert done.returncode in {0, 1}, done.stderr
    verdict: dict[str, Any] = json.loads(done.stdout)
    assert (verdict["accepted"], verdict["lost"]) == (3, 0)
    assert verdict["redeliveries"] >= 1
    if variant == TRUSTING:
        assert verdict["double_charged"] >= 1
        assert verdict["verdict"] == "fail"
    else:
        assert verdict["double_charged"] == 0
        assert verdict["verdict"] == "pass"
