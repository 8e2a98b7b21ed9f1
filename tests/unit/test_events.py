import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onceproof.errors import EventTooLargeError, MalformedEventError
from onceproof.events import MAX_EVENT_BYTES, Event

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@given(data=json_values, key=st.none() | st.from_regex(r"[A-Za-z0-9._-]{1,64}", fullmatch=True))
def test_what_is_encoded_is_decoded(data, key):
    event = Event(
        type="dev.test", data=data, key=key, traceparent="00-" + "a" * 32 + "-" + "b" * 16 + "-01"
    )
    assert Event.decode(event.encode()) == event


def test_the_wire_format_is_cloudevents_structured_json():
    event = Event(type="dev.test", data={"n": 1}, key="o-1", source="/orders")
    document = json.loads(event.encode())
    assert document["specversion"] == "1.0"
    assert document["subject"] == "o-1"
    assert document["datacontenttype"] == "application/json"
    assert document["data"] == {"n": 1}


def test_ids_are_unique_and_ascend_with_time():
    ids = [Event(type="t", data=None).id for _ in range(1000)]
    assert len(set(ids)) == 1000
    assert ids == sorted(ids)


def test_too_large_an_event_is_refused_before_it_can_enter_the_outbox():
    with pytest.raises(EventTooLargeError, match="send a reference"):
        Event(type="t", data="x" * MAX_EVENT_BYTES).encode()


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "not a JSON object"),
        (b"{}", "no specversion"),
        (b'{"specversion":"1.0"}', "'id' is missing"),
        (b'{"specversion":"1.0","id":7}', "'id' is missing"),
        (b'{"specversion":"1.0","id":"a\\u0000b","source":"s","type":"t"}', "control characters"),
        (b'{"specversion":"1.0","id":"\\ud800","source":"s","type":"t"}', "control characters"),
        (b'{"specversion":"1.0","id":"' + b"x" * 256 + b'"}', "longer than"),
        (b'{"specversion":"1.0","id":"1","source":"s","type":"t","subject":1}', "not a string"),
        (b'{"specversion":"1.0","id":"1","source":"s","type":"t","time":"noon"}', "RFC 3339"),
    ],
)
def test_what_is_not_an_event_says_why(body, reason):
    with pytest.raises(MalformedEventError, match=reason):
        Event.decode(body)


@given(st.binary(max_size=200))
def test_decoding_never_fails_in_another_way(body):
    with suppress(MalformedEventError):
        Event.decode(body)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"type": ""}, "'type' is missing"),
        ({"id": ""}, "'id' is missing"),
        ({"key": "a\x00b"}, "control characters"),
        ({"key": "k" * 256}, "longer than"),
        ({"extensions": {"id": "other"}}, "cannot be named id"),
    ],
)
def test_what_no_consumer_would_take_cannot_be_sent(change, reason):
    with pytest.raises(MalformedEventError, match=reason):
        Event(**{"type": "dev.test", "data": None} | change).encode()
