"""What is said of a run that does not become quiet, and what counts as quiet."""

from onceproof_chaos.prove.quiet import _going_on, _Level, written

BEFORE = {"public.done": "a", "public.seen": "b", "prove.effects": "c"}


def test_only_a_level_of_which_all_is_known_is_idle():
    assert _Level(0, 0, BEFORE).idle
    assert not _Level(1, 0, BEFORE).idle
    assert not _Level(0, 1, BEFORE).idle
    assert not _Level(None, 0, BEFORE).idle  # the broker does not answer
    assert not _Level(0, 0, None).idle  # a table is locked


def test_what_goes_on_is_named():
    assert "2 messages in the queue, 1 open transactions" in _going_on(_Level(2, 1, BEFORE), ())
    assert "the last change was in public.beat" in _going_on(_Level(0, 0, {}), ["public.beat"])
    unknown = _going_on(_Level(None, 0, None), ())
    assert "unknown number of messages" in unknown
    assert "is one locked?" in unknown


def test_the_tables_that_were_written_are_those_of_the_user_that_changed():
    after = BEFORE | {"public.done": "x", "prove.effects": "y"}
    assert written(BEFORE, after) == ("public.done",)
