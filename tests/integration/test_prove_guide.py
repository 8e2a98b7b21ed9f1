"""The guide "your own consumer in 30 minutes": its files and commands, taken from its text, are run."""

import re
import shlex
import sys
from pathlib import Path

import pytest
from tests.programs import ONCEPROOF, run_program

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

GUIDE = Path(__file__).parents[2] / "docs" / "your-own-consumer.md"
FILE = re.compile(r'^```\w+ title="([\w.]+)"\n(.*?)^```', re.MULTILINE | re.DOTALL)
OUTPUT = re.compile(r"\n```\n+```text\n(.*?)^```", re.MULTILINE | re.DOTALL)
FRAME = re.compile(r"[│┃┏┳┓┡╇┩├┼┤└┴┘━─]+")
RUN_FOLDER = re.compile(r"runs/\S+")
COMMAND = re.compile(r"^\$ (onceproof prove \w+:.*|pytest .*)$", re.MULTILINE)


@pytest.fixture
def guide(tmp_path):
    """Its commands, in a folder with its files."""
    text = GUIDE.read_text()
    files = FILE.findall(text)
    assert {name for name, _ in files} == {
        "schema.sql", "invariants.sql", "my_service.py", "too_early.py", "test_my_service.py",
    }  # fmt: skip
    for name, content in files:
        (tmp_path / name).write_text(content)
    commands = COMMAND.findall(text)
    assert len(commands) == 3
    return commands


def shown_after(command):
    """The lines that the guide shows below a command."""
    _, _, rest = GUIDE.read_text().partition(f"$ {command}")
    output = OUTPUT.match(rest)
    # The advice is wrapped there, and is none of what is proved.
    return [] if output is None else output[1].partition("\n  Look for")[0].splitlines()


def words_of(line):
    """A line without the frame of its table."""
    return RUN_FOLDER.sub("runs/", FRAME.sub(" ", line)).replace("...", "").split()


@pytest.mark.parametrize(("number", "code"), [(0, 0), (1, 1), (2, 0)])
def test_what_the_guide_says_is_what_happens(
    guide, number, code, empty_database_url, sqs_endpoint, tmp_path
):
    program, *words = shlex.split(guide[number])
    start = {
        "onceproof": ONCEPROOF,
        "pytest": (sys.executable, "-m", "pytest", "-p", "no:cacheprovider"),
    }[program]
    prefix = "--" if program == "onceproof" else "--onceproof-"
    done = run_program(
        *start, *words,
        f"{prefix}database-url", empty_database_url, f"{prefix}sqs-endpoint", sqs_endpoint,
        timeout_s=280, cwd=tmp_path, columns=140,
    )  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    printed = [words_of(line) for line in done.stdout.splitlines()]
    for line in shown_after(guide[number]):
        assert words_of(line) in printed, (line, done.stdout)
