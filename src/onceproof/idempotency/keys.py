"""What a request's idempotency key is, and what makes two requests the same request.

The header follows the IETF draft *The Idempotency-Key HTTP Header Field*, whose value is a quoted
structured-field string; most clients send the bare key, so both forms name the same key.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Final

from onceproof.errors import PermanentError, TransientError

MAX_KEY_CHARS: Final = 255

_PRINTABLE: Final = re.compile(r"[ -~]*")
# RFC 8941, section 3.3.3: printable ASCII, with only the quote and the backslash escaped.
_QUOTED: Final = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])*)"')
_ESCAPED: Final = re.compile(r"\\(.)")
_RETRY_AFTER_S: Final = 1.0


class InvalidKeyError(PermanentError):
    """The header is missing, given twice, or not 1 to 255 printable ASCII characters (HTTP 400)."""


class KeyReusedError(PermanentError):
    """The key was used for a different request (HTTP 422)."""


class KeyInProgressError(TransientError):
    """Another request with this key is being worked on right now (HTTP 409, with Retry-After)."""

    def __init__(self) -> None:
        super().__init__(
            "a request with this Idempotency-Key is in progress", retry_after_s=_RETRY_AFTER_S
        )


def parse_key(header: str | Sequence[str] | None) -> str:
    """The key that an `Idempotency-Key` header names, without the quotes of the draft's form.

    Args:
        header: the field's value, or all its values where the framework gives a list, so that a
            header sent twice is refused instead of read in part.

    Raises:
        InvalidKeyError: with what is wrong, in words for the client.
    """
    values = [header] if isinstance(header, str) else list(header or ())
    if not values:
        raise InvalidKeyError("the Idempotency-Key header is missing")
    if len(values) > 1:
        raise InvalidKeyError("the Idempotency-Key header is given more than once")
    key = values[0].strip(" \t")
    if key.startswith('"'):
        quoted = _QUOTED.fullmatch(key)
        if quoted is None:
            raise InvalidKeyError("the Idempotency-Key header is not a well-formed quoted string")
        key = _ESCAPED.sub(r"\1", quoted[1])
    if not 1 <= len(key) <= MAX_KEY_CHARS:
        raise InvalidKeyError(f"the Idempotency-Key must have 1 to {MAX_KEY_CHARS} characters")
    if _PRINTABLE.fullmatch(key) is None:
        raise InvalidKeyError("the Idempotency-Key may hold printable ASCII characters only")
    return key


def fingerprint(method: str, path: str, body: bytes) -> bytes:
    """SHA-256 over method, path and the exact bytes of the body: 32 bytes.

    A client that repeats a request sends the same bytes; a body that merely means the same is
    somebody who reuses a key.
    """
    digest = hashlib.sha256()
    for part in (method.upper().encode(), path.encode(), body):
        # The length keeps ("a", "bc") and ("ab", "c") apart.
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.digest()
