"""What can be asked for: points, events, targets, and the command line that repeats a proof."""

import json
import random
import shlex
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from onceproof.errors import ConfigurationError
from onceproof.events import Event
from onceproof_chaos.prove.invariants import Invariant, parse
from onceproof_chaos.prove.messages import make_messages
from onceproof_chaos.prove.points import (
    ADVICE,
    AFTER_EFFECT,
    BEFORE_COMMIT,
    MEANING,
    WITHOUT_INBOX,
    Act,
    Cell,
    Kind,
    matrix,
)
from onceproof_chaos.prove.queue_proxy import message_ids, operation, visibility
from onceproof_chaos.prove.settings import ProveSettings
from onceproof_chaos.prove.target import load_target

SETTINGS = ProveSettings("shop:handle", Kind.HANDLER, (Invariant("once", "SELECT 1"),))


@pytest.fixture(autouse=True)
def _own_import_path(monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])


def test_a_handler_meets_every_fault_at_every_crash_point_and_both_duplicates():
    cells = matrix(Kind.HANDLER, effects=False, tables=("public.t",))
    assert len([cell for cell in cells if cell.is_crash_point]) == 9
    assert [cell.act for cell in cells[9:]] == [Act.AT_ONCE, Act.LATER, Act.NONE]
    assert not any(cell.point in {AFTER_EFFECT, BEFORE_COMMIT} for cell in cells)


def test_the_other_system_and_the_tables_are_points_where_they_are_used():
    cells = matrix(Kind.LOOP, effects=True, tables=("public.a", "public.b"))
    assert {cell.detail for cell in cells if cell.point == BEFORE_COMMIT} == {
        "public.a",
        "public.b",
    }
    assert sum(cell.point == AFTER_EFFECT for cell in cells) == 3
    assert not any(cell.is_crash_point or cell.point == WITHOUT_INBOX for cell in cells)


def test_who_deduplicates_alone_is_not_tried_without():
    cells = matrix(Kind.HANDLER, effects=False, tables=(), inbox=False)
    assert not any(cell.point == WITHOUT_INBOX for cell in cells)


def test_each_point_has_a_meaning_and_advice_and_each_cell_a_file_of_its_own():
    cells = [
        cell
        for kind in Kind
        for cell in matrix(kind, effects=True, tables=("public.a", 'public."B c"'))
    ]
    assert {cell.point for cell in cells} <= set(MEANING)
    assert {cell.point for cell in cells if not cell.is_control} <= set(ADVICE)
    assert len({cell.slug for cell in cells}) == len(set(cells))
    assert "/" not in Cell(BEFORE_COMMIT, Act.KILL, 'public."a/b"').slug


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"target": "shop"}, "no import path"),
        ({"target": "shop:handle me"}, "no import path"),
        ({"events": "shop"}, "expected my_service:events"),
        ({"kind": Kind.COMMAND, "target": "  "}, "command is empty"),
        ({"invariants": ()}, "invariant is needed"),
        ({"raw": True}, "CloudEvents"),
        ({"kind": Kind.LOOP, "inbox": False}, "own loop"),
        ({"messages": 1}, "two messages"),
        ({"visibility_s": 0.5}, "start at 1"),
        (
            {"points": ("broker.before_ack",)},
            "unknown point broker.before_ack; known here: consumer",
        ),
        ({"kind": Kind.LOOP, "points": ("consumer.after_charge",)}, "known here: broker"),
    ],
)
def test_what_cannot_be_proved_is_refused(changes, reason):
    with pytest.raises(ValueError, match=reason):
        replace(SETTINGS, **changes)


def test_the_command_line_repeats_the_proof():
    words = shlex.split(replace(SETTINGS, inbox=False, schema=(Path("a.sql"),)).command())
    assert words[:3] == ["onceproof", "prove", "shop:handle"]
    assert words[words.index("--invariant") + 1] == "once=SELECT 1"
    assert words[words.index("--schema") + 1] == "a.sql"
    assert "--no-inbox" in words
    command = replace(SETTINGS, kind=Kind.COMMAND, target="node consumer.js").command()
    assert shlex.split(command)[2:4] == ["--command", "node consumer.js"]


@pytest.mark.parametrize(
    "text", ["SELECT 1", "once=SELECT 1", "each-order.once=WITH x AS (SELECT 1) SELECT", "@it.sql"]
)
def test_the_command_line_repeats_the_invariants_with_their_names(text, tmp_path):
    (tmp_path / "it.sql").write_text("-- name: its-own\n-- What it means.\nSELECT 1;\n")
    invariants = parse([text], tmp_path)
    words = shlex.split(replace(SETTINGS, invariants=invariants).command())
    assert parse([words[words.index("--invariant") + 1]]) == invariants


def test_the_same_seed_gives_the_same_events_from_the_template():
    settings = replace(SETTINGS, data='{"order": "$key", "n": $number, "id": "$id"}', messages=3)
    events = [message.event for message in make_messages(settings)]
    assert [event.data["n"] for event in events] == [0, 1, 2]
    assert all(e.data["order"] == e.key and e.data["id"] == e.id for e in events)
    again = [message.event.id for message in make_messages(settings)]
    assert again == [event.id for event in events]
    assert {m.event.id for m in make_messages(replace(settings, seed=2))}.isdisjoint(again)


def test_raw_messages_are_the_data_alone():
    settings = replace(SETTINGS, kind=Kind.LOOP, raw=True, data='{"n": $number}', messages=2)
    assert [json.loads(message.body) for message in make_messages(settings)] == [{"n": 0}, {"n": 1}]


def test_a_function_may_make_the_events(tmp_path):
    (tmp_path / "made_events.py").write_text(
        "from onceproof.events import Event\n"
        "def events(count, rng):\n"
        "    return [Event(type='t', data=rng.random(), id=f'e-{i}') for i in range(count)]\n"
        "def wrong(count, rng):\n"
        "    return ['x']\n"
        "def twice(count, rng):\n"
        "    return [Event(type='t', data=1, id='same')] * count\n"
        "def fails(count):\n"
        "    return []\n"
        "def sets(count, rng):\n"
        "    return [Event(type='t', data={1})]\n"
    )
    settings = replace(SETTINGS, events="made_events:events", path=tmp_path, messages=2)
    first, second = make_messages(settings)
    assert isinstance(first.event, Event)
    assert first.event.data == random.Random("prove-1").random()
    assert first.key == "e-0"  # without a key it is the id that a crash point would match
    assert second.row[0] == "e-1"
    for name, reason in (
        ("wrong", "must give"),
        ("twice", "same id"),
        ("no", "does not exist"),
        ("fails", r"failed: TypeError.*def events\(count, rng\)"),
        ("sets", "is no JSON"),
    ):
        with pytest.raises(ConfigurationError, match=reason):
            make_messages(replace(settings, events=f"made_events:{name}"))


@pytest.mark.parametrize(
    ("template", "reason"),
    [('{"a": $nothing}', "known: "), ('{"a": }', "gives no JSON"), ('{"a": "$"}', "known: ")],
)
def test_a_wrong_template_says_what_is_known(template, reason):
    with pytest.raises(ConfigurationError, match=reason):
        make_messages(replace(SETTINGS, data=template))


def test_a_target_is_checked_for_its_shape(tmp_path):
    (tmp_path / "shop_target.py").write_text(
        "async def handle(session, delivery): ...\n"
        "async def consume(runtime): ...\n"
        "def blocking(session, delivery): ...\n"
        "class Handler:\n"
        "    async def __call__(self, session, delivery): ...\n"
        "handler = Handler()\n"
        "import functools\n"
        "async def three(service, session, delivery): ...\n"
        "partial = functools.partial(three, 1)\n"
    )
    (tmp_path / "script_target.py").write_text("import sys\nsys.exit(0)\n")
    (tmp_path / "broken_target.py").write_text("1 / 0\n")
    load_target("shop_target:handle", tmp_path, Kind.HANDLER)
    load_target("shop_target:handler", tmp_path, Kind.HANDLER)
    load_target("shop_target:partial", tmp_path, Kind.HANDLER)
    load_target("shop_target:consume", tmp_path, Kind.LOOP)
    for target, kind, reason in (
        ("shop_target:consume", Kind.HANDLER, "--own-loop"),
        ("shop_target:handle", Kind.LOOP, r"consume\(runtime\)"),
        ("shop_target:blocking", Kind.HANDLER, "no async function"),
        ("shop_target:missing", Kind.HANDLER, "does not exist"),
        ("no_such_module_here:handle", Kind.HANDLER, "--path"),
        ("broken_target:handle", Kind.HANDLER, "ZeroDivisionError"),
        ("script_target:handle", Kind.HANDLER, "SystemExit"),
    ):
        with pytest.raises(ConfigurationError, match=reason):
            load_target(target, tmp_path, kind)


def test_operations_of_sqs_are_known_in_both_protocols():
    assert operation("AmazonSQS.ReceiveMessage", b"{}") == "ReceiveMessage"
    assert operation("", b"Action=DeleteMessage&Version=2012-11-05") == "DeleteMessage"
    assert operation("", b"", "Action=ReceiveMessage&WaitTimeSeconds=1") == "ReceiveMessage"
    assert operation("", b"\xff") == ""
    assert message_ids(b'{"Messages": [{"MessageId": "a"}, {"MessageId": "b"}]}') == {"a", "b"}
    assert message_ids(b"<Message><MessageId>a</MessageId><Body>x</Body></Message>") == {"a"}
    for nothing in (b'{"Messages": []}', b"{}", b"[]", b"<ReceiveMessageResult/>", b"", None):
        assert message_ids(nothing) == set()


def test_the_visibility_that_a_consumer_asks_for_is_seen_in_both_protocols():
    assert visibility(b'{"QueueUrl": "q", "VisibilityTimeout": 30}') == 30
    assert visibility(b'{"Entries": [{"VisibilityTimeout": 5}, {"VisibilityTimeout":60}]}') == 60
    assert visibility(b"Action=ReceiveMessage&VisibilityTimeout=7") == 7
    assert visibility(b"", "Entry.1.VisibilityTimeout=8&Version=1") == 8
    assert visibility(b'{"QueueUrl": "q"}') == 0
