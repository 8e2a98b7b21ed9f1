"""The ablation on real cells: what theory says is measured, and a wrong theory is refuted by it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.programs import ONCEPROOF, run_program

from onceproof_chaos.ablation.ablation import Wanted
from onceproof_chaos.ablation.agreement import Agreement
from onceproof_chaos.ablation.matrix import build
from onceproof_chaos.ablation.prediction import Prediction
from onceproof_chaos.ablation.results import AblationFolder
from onceproof_chaos.ablation.theory import TABLE
from onceproof_chaos.runfolder import RunFolder
from onceproof_chaos.verdict import BreachKind, Result

pytestmark = pytest.mark.slow

PASS, UNUSABLE = 0, 2
KILL = "kill-consumer.after_commit"
VARIANTS = ("naive", "hardened", "hardened-inbox")
CHOICE = ("--seeds", "1", "--variants", ",".join(VARIANTS), "--faults", KILL)


@pytest.fixture
def onceproof(database_url, sqs_endpoint, tmp_path):
    """Run the command line; its exit code, standard output and standard error."""

    def run(*words):
        where = ("--run-dir", str(tmp_path), "--database-url", database_url)
        done = run_program(*ONCEPROOF, "ablate", *words, *where, "--sqs-endpoint", sqs_endpoint)
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode, done.stdout, done.stderr

    return run


def test_cells_are_measured_as_predicted_and_a_finished_ablation_is_only_read(onceproof, tmp_path):
    code, output, told = onceproof(*CHOICE, "--orders", "4", "--parallel", "3", "--json")
    assert code == PASS, output + told
    found = json.loads(output)
    assert found["cells"] == {"agrees": 3, "inconclusive": 0, "disagrees": 0}
    assert f"--resume {found['folder']}" in " ".join(told.split())
    measured = {entry["variant"]: entry for entry in found["matrix"]}
    assert {entry["struck"] for entry in measured.values()} == {2}
    assert measured["naive"]["measured"]["double_charged"] == 2
    assert not any(measured["hardened"]["measured"].values())
    assert measured["hardened"]["deduplicated"] == 2
    assert measured["hardened-inbox"]["measured"]["mismatched"] == 2
    assert measured["hardened-inbox"]["measured"]["double_charged"] == 0

    # Each cell can be judged again like any run. A cell may have needed a second attempt, beside whose
    # folder lies what the first one left.
    folder = AblationFolder.open(Path(found["folder"]))
    folders = sorted(folder.cells.iterdir())
    verdicts = {}
    for known in folder.results().values():
        opened = RunFolder.open(folder.path / known[-1].run)
        assert opened.judge() == opened.verdict()
        verdicts[opened.info().variant] = opened.verdict().verdict
    assert verdicts == {
        "naive": Result.FAIL,
        "hardened": Result.PASS,
        "hardened-inbox": Result.FAIL,
    }

    # A theory that promises too much, or too little, does not survive these measurements.
    cells = Wanted(1, 1, VARIANTS, (KILL,)).cells()
    for variant, kinds in (("hardened", {BreachKind.LOST}), ("naive", set())):
        wrong = dict(TABLE) | {(variant, KILL): Prediction(frozenset(kinds), True, "Wrong.")}
        assert build(cells, folder.results(), wrong).agreement is Agreement.DISAGREES

    page = tmp_path / "ablation.md"
    code, output, _ = onceproof(*CHOICE, "--resume", found["folder"], "--markdown", str(page))
    assert code == PASS
    assert "double" in output
    assert "2/2 mismatched" in page.read_text()
    assert sorted(folder.cells.iterdir()) == folders


def test_over_kafka_its_transactions_end_where_the_database_begins(
    database_url, kafka_bootstrap, tmp_path
):
    done = run_program(
        *ONCEPROOF, "ablate", "--broker", "kafka", "--transactions", "--seeds", "1",
        "--variants", "transactions,hardened", "--faults", KILL, "--orders", "4", "--parallel", "2",
        "--run-dir", str(tmp_path), "--database-url", database_url,
        "--kafka-bootstrap", kafka_bootstrap, "--json",
    )  # fmt: skip
    assert done.returncode == PASS, done.stdout + done.stderr
    found = json.loads(done.stdout)
    measured = {entry["variant"]: entry["measured"] for entry in found["matrix"]}
    assert measured["transactions"]["double_charged"] == 2
    assert not any(measured["hardened"].values())
    assert AblationFolder.open(Path(found["folder"])).basis.transactions


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--variants", "hardened-hope"), "unknown: hardened-hope"),
        (("--faults", "earthquake"), "unknown: earthquake"),
        (("--resume", "no/such/ablation"), "ablation.json is missing"),
        (("--markdown", "no/such/folder/page.md"), "is not a folder"),
        (("--transactions",), "use --broker kafka"),
        (("--variants", "transactions"), "unknown: transactions"),
    ],
)
def test_bad_input_is_an_error_that_says_what_to_do(onceproof, words, reason):
    code, _, told = onceproof(*words)
    assert code == UNUSABLE
    assert reason in " ".join(told.replace("│", " ").split())
