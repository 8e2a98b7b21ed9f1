"""`onceproof prove` itself: what it must not call held, what it must refuse, and consumers of any make.

Each test runs the command line that the guide shows, on a service that is written into a folder.
"""

import json
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from tests.programs import ONCEPROOF, alive, run_program, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

PASS, FAIL, UNUSABLE, INCONCLUSIVE = 0, 1, 2, 3

SCHEMA = "CREATE TABLE done (key text NOT NULL);"
ONCE = (
    "once=SELECT p.key, count(d.key) FROM prove.published p LEFT JOIN done d USING (key) "
    "GROUP BY p.key HAVING count(d.key) <> 1"
)
SERVICE = """
import sys
from sqlalchemy import text
from onceproof.errors import PermanentError

DONE = text("INSERT INTO done (key) VALUES (:key)")

async def handle(session, delivery):
    await session.execute(DONE, {"key": delivery.event.key})

async def refuse(session, delivery):
    raise PermanentError("this shop is closed")

async def crash(session, delivery):
    await handle(session, delivery)
    if delivery.attempt == 2:
        sys.exit(7)

async def consume(runtime):
    pass
"""
# Nothing of the library, and blocking from end to end, as a consumer in another language would be.
COMMAND = """
import asyncio, json, os
import asyncpg, boto3

def main():
    sqs, queue = boto3.client("sqs"), os.environ["ONCEPROOF_QUEUE_URL"]
    while True:
        reply = sqs.receive_message(QueueUrl=queue, WaitTimeSeconds=1)
        for message in reply.get("Messages", []):
            asyncio.run(work(json.loads(message["Body"])))
            sqs.delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])

async def work(order):
    connection = await asyncpg.connect(os.environ["DATABASE_URL"])
    await connection.execute("INSERT INTO done SELECT $1 WHERE NOT EXISTS "
                             "(SELECT 1 FROM done WHERE key = $1)", order["key"])
    await connection.close()

main()
"""


@pytest.fixture
def service(tmp_path):
    """A folder with somebody's service."""
    (tmp_path / "shop.py").write_text(SERVICE)
    (tmp_path / "consumer.py").write_text(COMMAND)
    (tmp_path / "script.py").write_text("import sys; sys.exit(0)")
    (tmp_path / "schema.sql").write_text(SCHEMA)
    return tmp_path


@pytest.fixture
def prove(service, empty_database_url, sqs_endpoint):
    """Run the command line in the service's folder; its exit code and its JSON, or its errors."""

    def run(*words, invariant=ONCE):
        done = run_program(
            *ONCEPROOF, "prove", *words, "--schema", "schema.sql", "--invariant", invariant,
            "--messages", "6", "--json",
            "--database-url", empty_database_url, "--sqs-endpoint", sqs_endpoint,
            timeout_s=280, cwd=service, columns=300,
        )  # fmt: skip
        assert "Traceback" not in done.stderr or done.returncode == UNUSABLE, done.stderr
        return done.returncode, json.loads(done.stdout) if done.stdout else done.stderr

    return run


def statuses(result):
    return {(cell["point"], cell["action"]): cell["status"] for cell in result["cells"]}


def test_one_point_of_a_handler_is_proved_and_the_run_folder_tells_how(prove, tmp_path):
    code, result = prove("shop:handle", "--point", "consumer.after_charge")
    assert (code, result["verdict"]) == (PASS, "pass"), result
    assert statuses(result) == {
        ("control", "none"): "held",
        ("consumer.after_charge", "kill"): "held",
        ("consumer.after_charge", "stall"): "held",
        ("consumer.after_charge", "drop"): "held",
        ("control.without_inbox", "none"): "broken",
    }
    folder = tmp_path / result["run"]
    settings = json.loads((folder / "prove.json").read_text())
    assert "onceproof prove shop:handle" in settings["command"]
    assert settings["tables"] == ["public.done"]
    events = [json.loads(line) for line in (folder / "faults.jsonl").read_text().splitlines()]
    killed = [event for event in events if event["event"] == "killed"]
    assert [event["exit_code"] for event in killed] == [-9]
    assert Path(folder / "logs" / "consumer.after_charge-kill" / "consumer-0.log").stat().st_size


def test_invariants_that_hold_whatever_happens_prove_nothing(prove):
    code, result = prove(
        "shop:handle", "--point", "publish.duplicate", invariant="SELECT 1 WHERE false"
    )
    # The control without inbox breaks nothing either, and before any work nothing was missed.
    assert (code, result["verdict"]) == (INCONCLUSIVE, "inconclusive")
    assert "never seen to break" in result["reasons"][0]


def test_a_handler_that_breaks_the_invariant_by_itself_is_not_blamed_on_a_fault(prove):
    code, result = prove("shop:refuse")
    assert (code, result["verdict"]) == (FAIL, "fail")
    assert statuses(result) == {("control", "none"): "broken"}
    assert "this shop is closed" in result["cells"][0]["reasons"][0]


def test_a_consumer_that_ends_by_itself_is_inconclusive(prove):
    code, result = prove("shop:crash", "--point", "consumer.before_charge")
    assert code == INCONCLUSIVE
    assert any("ended by itself" in reason for reason in result["reasons"]), result["reasons"]


def test_a_point_that_is_not_there_is_no_pass(prove):
    code, result = prove("shop:handle", "--point", "effects.after_record")
    assert (code, result["verdict"]) == (INCONCLUSIVE, "inconclusive")
    assert "No fault was injected" in result["reasons"][0]


@pytest.mark.parametrize(
    ("key", "broken"),
    [
        ("key text PRIMARY KEY", set()),
        # Looks first and writes later, and nothing refuses the second row: a zombie that is held in its
        # commit and its successor do not see one another.
        ("key text NOT NULL", {("database.before_commit", "stall")}),
    ],
)
def test_any_command_can_be_proved_from_outside(prove, tmp_path, key, broken):
    (tmp_path / "schema.sql").write_text(f"CREATE TABLE done ({key})")
    code, result = prove(
        "--command", f"{sys.executable} consumer.py", "--raw",
        "--point", "broker.before_ack", "--point", "database.before_commit",
    )  # fmt: skip
    points = ("broker.before_ack", "database.before_commit")
    faults = {(point, action) for point in points for action in ("kill", "stall", "drop")}
    found = statuses(result)
    assert {cell for cell, status in found.items() if status == "broken"} == broken, result
    assert {cell for cell, status in found.items() if status == "held"} == (
        faults - broken | {("control", "none")}
    )
    assert code == (FAIL if broken else PASS)


def test_a_stall_that_the_messages_stay_hidden_for_proves_nothing(prove, tmp_path):
    (tmp_path / "consumer.py").write_text(
        COMMAND.replace("WaitTimeSeconds=1", "WaitTimeSeconds=1, VisibilityTimeout=30")
    )
    code, result = prove(
        "--command", f"{sys.executable} consumer.py", "--raw", "--point", "database.before_commit"
    )  # fmt: skip
    assert code == INCONCLUSIVE
    assert statuses(result)["database.before_commit", "stall"] == "inconclusive"
    assert any("give --visibility 30" in reason for reason in result["reasons"]), result["reasons"]


def test_a_consumer_that_starts_slowly_meets_the_zombie_all_the_same(prove, tmp_path):
    (tmp_path / "consumer.py").write_text(f"import time; time.sleep(8)\n{COMMAND}")
    code, result = prove(
        "--command", f"{sys.executable} consumer.py", "--raw", "--point", "database.before_commit"
    )  # fmt: skip
    assert code == FAIL
    assert statuses(result)["database.before_commit", "stall"] == "broken"


def test_a_loop_that_ends_at_once_is_said_to(prove, tmp_path):
    code, message = prove("shop:consume", "--own-loop")
    assert code == UNUSABLE
    assert "ended" in message
    log = tmp_path / "runs" / "latest" / "logs" / "control" / "consumer-0.log"
    assert "a loop consumes until runtime.stop is set" in log.read_text()


@pytest.mark.parametrize(
    ("words", "invariant", "reason"),
    [
        (("shop:nothing",), ONCE, "does not exist"),
        (("shop:consume",), ONCE, "--own-loop for loops of your own"),
        (("no_shop:handle",), ONCE, "cannot be imported"),
        (("shop:handle",), "once=SELECT * FROM nowhere", 'relation "nowhere" does not exist'),
        (("shop:handle", "--point", "consumer.nowhere"), ONCE, "unknown point"),
        (("shop:handle", "--batch", "--own-loop"), ONCE, "exclude one another"),
        (("shop:handle", "--data", "{"), ONCE, "gives no JSON"),
        # It exits with 0 when it is imported, which must not be taken for a proof.
        (("shop:handle", "--events", "script:events"), ONCE, "importing script:events failed"),
        (("shop:handle",), "once=SELECT * FROM done WHERE key = $1", "expects 1 argument"),
        (("--command", ""), ONCE, "command is empty"),
        ((), ONCE, "import path"),
    ],
)
def test_bad_input_is_an_error_that_says_what_to_do(prove, words, invariant, reason):
    code, message = prove(*words, invariant=invariant)
    assert code == UNUSABLE, message
    assert reason in " ".join(str(message).split())


TEST_OF_A_USER = """
async def test_the_handler_survives(onceproof_prove):
    result = onceproof_prove(
        "shop:handle",
        schema="schema.sql",
        invariants={"once": "SELECT p.key FROM prove.published p LEFT JOIN done d USING (key) "
                            "GROUP BY p.key HAVING count(d.key) <> 1"},
        data={"order": "$key"},
        points=("publish.duplicate",),
        messages=4,
    )
    assert result.held, result
    assert result.status("publish.duplicate", "later") == "held"
"""


def test_the_same_stands_among_the_tests_of_a_service(service, empty_database_url, sqs_endpoint):
    (service / "test_shop.py").write_text(TEST_OF_A_USER)
    (service / "pytest.ini").write_text(
        "[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n"
        "filterwarnings = error\n"
    )
    done = subprocess.run(
        [
            sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider",
            "--onceproof-database-url", empty_database_url,
            "--onceproof-sqs-endpoint", sqs_endpoint,
        ],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
        cwd=service,
    )  # fmt: skip
    assert done.returncode == PASS, done.stdout + done.stderr
    assert "1 passed" in done.stdout


def test_a_command_dies_with_a_harness_that_is_killed(service, empty_database_url, sqs_endpoint):
    harness = subprocess.Popen(
        [
            *ONCEPROOF, "prove", "--command", f"{sys.executable} consumer.py", "--raw",
            "--schema", "schema.sql", "--invariant", ONCE,
            "--database-url", empty_database_url, "--sqs-endpoint", sqs_endpoint,
        ],
        stderr=subprocess.DEVNULL,
        cwd=service,
    )  # fmt: skip
    until(lambda: _consumers_of(harness.pid))
    consumers = _consumers_of(harness.pid)
    harness.kill()
    harness.wait()
    until(lambda: not any(alive(process) for process in consumers))


def _consumers_of(pid):
    children = psutil.Process(pid).children()
    return [child for child in children if "consumer.py" in child.cmdline()]


def test_a_schema_that_postgres_refuses_is_an_error_with_its_name(prove, tmp_path):
    (tmp_path / "schema.sql").write_text("CREATE TABEL done (key text)")
    code, message = prove("shop:handle")
    assert code == UNUSABLE
    assert "schema.sql is refused by Postgres" in " ".join(message.split())
