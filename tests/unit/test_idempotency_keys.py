from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onceproof.idempotency import (
    MAX_KEY_CHARS,
    InvalidKeyError,
    KeyInProgressError,
    fingerprint,
    parse_key,
)
from onceproof.idempotency.storage import lock_id

printable = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=255)


@pytest.mark.parametrize(
    ("header", "key"),
    [
        ("k", "k"),
        ("  k\t", "k"),
        ("two words", "two words"),
        ("x" * MAX_KEY_CHARS, "x" * MAX_KEY_CHARS),
        ('"8e03978e-40d5-43dd-bc93-6894a57f9324"', "8e03978e-40d5-43dd-bc93-6894a57f9324"),
        (r'"a\"b\\c"', r'a"b\c'),
        ('"' + "x" * MAX_KEY_CHARS + '"', "x" * MAX_KEY_CHARS),
        (["k"], "k"),
    ],
)
def test_a_header_names_a_key(header: str | list[str], key: str) -> None:
    assert parse_key(header) == key


@pytest.mark.parametrize(
    "header",
    [
        None,
        [],
        ["a", "b"],
        "",
        "   ",
        '""',
        "x" * (MAX_KEY_CHARS + 1),
        "schl\xfcssel",
        "a\x00b",
        "a\x7fb",
        "a\nb",
        '"unterminated',
        '"a" trailing',
        '"a", "b"',
        r'"bad \escape"',
        '"\xfc"',
    ],
)
def test_a_bad_header_is_refused(header: str | list[str] | None) -> None:
    with pytest.raises(InvalidKeyError):
        parse_key(header)


@given(printable)
def test_both_forms_of_a_key_name_the_same_key(key: str) -> None:
    quoted = '"' + key.replace("\\", "\\\\").replace('"', '\\"') + '"'
    assert parse_key(quoted) == key
    if not key.startswith('"'):
        assert parse_key(key) == key


@given(st.text(max_size=300))
def test_any_header_gives_a_valid_key_or_is_refused(header: str) -> None:
    try:
        key = parse_key(header)
    except InvalidKeyError:
        return
    assert 1 <= len(key) <= MAX_KEY_CHARS
    assert key.isascii()
    assert key.isprintable()


def test_a_fingerprint_depends_on_method_path_and_exact_body() -> None:
    prints = {
        fingerprint("POST", "/orders", b'{"a":1}'),
        fingerprint("PUT", "/orders", b'{"a":1}'),
        fingerprint("POST", "/order", b's{"a":1}'),
        fingerprint("POST", "/orders", b'{"a": 1}'),
    }
    assert len(prints) == 4
    assert fingerprint("post", "/orders", b'{"a":1}') in prints
    assert {len(one) for one in prints} == {32}


@given(st.text(st.characters(codec="utf-8")))
def test_alock_id_is_a_signed_64_bit_number(scope: str) -> None:
    assert -(2**63) <= lock_id(scope, "k") < 2**63
    assert lock_id("a", "b") != lock_id("ab", "")


def test_a_request_in_progress_says_when_to_come_back() -> None:
    assert KeyInProgressError().retry_after_s == 1.0
