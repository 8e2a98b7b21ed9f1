"""A stall that nobody else takes advantage of proves nothing, and is said to."""

from types import SimpleNamespace

import pytest

from onceproof.errors import ConfigurationError
from onceproof.ports import QueueDepth
from onceproof_chaos.prove import zombie
from onceproof_chaos.prove.invariants import Invariant
from onceproof_chaos.prove.points import Kind
from onceproof_chaos.prove.settings import ProveSettings
from onceproof_chaos.prove.zombie import Zombie

SETTINGS = ProveSettings("shop:consume", Kind.LOOP, (Invariant("once", "SELECT 1"),))
WAITING, IN_HAND, EMPTY = QueueDepth(1, 0, 0), QueueDepth(0, 1, 0), QueueDepth(0, 0, 0)


def queue(*depths):
    """Has one depth after another, and the last one for ever."""
    left = list(depths)

    async def depth():
        return left.pop(0) if len(left) > 1 else left[0]

    return SimpleNamespace(depth=depth, left=left)


def doors(hidden_s=0, redelivered=None):
    return SimpleNamespace(longest_visibility_s=hidden_s, redelivered=redelivered)


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    for name, seconds in {"_REPLACE_S": 0.2, "_WORK_S": 0.01, "_POLL_S": 0.01}.items():
        monkeypatch.setattr(zombie, name, seconds)


def test_messages_that_stay_hidden_longer_than_the_stall_make_no_zombie():
    Zombie(doors(hidden_s=2), queue(EMPTY), SETTINGS)
    with pytest.raises(ConfigurationError, match=r"for 30 s.*give --visibility 30"):
        Zombie(doors(hidden_s=30), queue(EMPTY), SETTINGS)


async def test_where_the_queue_is_seen_directly_nobody_waits_in_it():
    seen = queue(WAITING, WAITING, IN_HAND)
    await Zombie(doors(), seen, SETTINGS).until_replaced()
    assert seen.left == [IN_HAND]
    with pytest.raises(ConfigurationError, match="came back as no zombie"):
        await Zombie(doors(), queue(WAITING), SETTINGS).until_replaced()


async def test_where_a_proxy_stands_before_it_a_message_is_handed_out_again():
    seen = doors(redelivered=3)
    running = Zombie(seen, queue(IN_HAND), SETTINGS)
    with pytest.raises(ConfigurationError, match="came back as no zombie"):
        await running.until_replaced()
    seen.redelivered = 4
    await running.until_replaced()


async def test_what_was_acked_before_the_stall_comes_to_nobody():
    await Zombie(doors(redelivered=0), queue(EMPTY), SETTINGS).until_replaced()
