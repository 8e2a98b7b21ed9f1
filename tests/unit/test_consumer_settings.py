from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from onceproof.consumer import ConsumerSettings
from onceproof.errors import ConfigurationError


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"name": ""}, "needs a name"),
        ({"concurrency": 0}, "concurrency"),
        ({"batch_size": 0}, "batch_size"),
        ({"prefetch": -1}, "prefetch"),
        ({"wait_s": 21}, "wait_s"),
        ({"wait_s": -1}, "wait_s"),
        ({"visibility_s": 0.5}, "visibility_s"),
        ({"visibility_s": 43201}, "visibility_s"),
        ({"heartbeat_s": 0}, "heartbeat_s"),
        ({"heartbeat_s": 30}, "heartbeat_s"),
    ],
)
def test_what_cannot_work_is_refused(setting: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        replace(ConsumerSettings("payments", visibility_s=30), **setting)


def test_two_heartbeats_may_fail() -> None:
    assert ConsumerSettings("payments", visibility_s=30).heartbeat_interval_s == 10
    assert ConsumerSettings("payments", heartbeat_s=2).heartbeat_interval_s == 2
