"""What SQS can carry, checked before a request is made.

One entry with a character that SQS refuses, or a batch that is too large, makes the service refuse
the whole request. Checked here it costs only the entry that is at fault.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from onceproof.ports import Message, Outgoing

MAX_BATCH_ENTRIES: Final = 10
MAX_REQUEST_BYTES: Final = 256 * 1024
"""Bodies and attributes of one request. AWS takes 1 MiB since August 2025, ElasticMQ does not."""
_MAX_ATTRIBUTES: Final = 10

# https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessage.html
_REFUSED: Final = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_PLAIN: Final = bytes([9, 10, 13, *range(0x20, 0x80)])
_ATTRIBUTE_NAME: Final = re.compile(
    r"(?!aws\.|amazon\.|\.)[A-Za-z0-9_.-]{1,256}(?<!\.)", re.IGNORECASE
)
_FIFO_TOKEN: Final = re.compile(r"[!-~]{1,128}")


class UnsendableError(ValueError):
    """SQS cannot carry this message; the text says why."""


def entry(message: Outgoing, *, fifo: bool) -> dict[str, Any]:
    """The parameters of SendMessage for a message, without its queue.

    Raises:
        UnsendableError: the body is not UTF-8, holds a character that SQS refuses, is empty or too
            large, or an attribute is not acceptable.
    """
    try:
        body = message.body.decode()
    except UnicodeDecodeError as error:
        raise UnsendableError(f"the body is not UTF-8: {error.reason} at {error.start}") from None
    if not body:
        raise UnsendableError("the body is empty")
    _check_body(message.body, body)
    if len(message.attributes) > _MAX_ATTRIBUTES:
        raise UnsendableError(f"more than {_MAX_ATTRIBUTES} attributes")
    for name, value in message.attributes.items():
        if not _ATTRIBUTE_NAME.fullmatch(name):
            raise UnsendableError(f"SQS does not accept the attribute name {name!r}")
        if not value:
            raise UnsendableError(f"attribute {name!r} is empty")
        _check_characters(f"attribute {name!r}", value)
    size = size_of(message)
    if size > MAX_REQUEST_BYTES:
        raise UnsendableError(f"{size} bytes with attributes; SQS accepts {MAX_REQUEST_BYTES}")
    parameters: dict[str, Any] = {"MessageBody": body}
    if message.attributes:
        parameters["MessageAttributes"] = {
            name: {"DataType": "String", "StringValue": value}
            for name, value in message.attributes.items()
        }
    if fifo:
        # Without a key there is no order to keep: a group of its own.
        parameters["MessageGroupId"] = _fifo_token(message.key or message.id)
        parameters["MessageDeduplicationId"] = _fifo_token(message.id)
    return parameters


def size_of(message: Outgoing) -> int:
    """Bytes that count against the request limit: body, attribute names, types and values."""
    if not message.attributes:
        return len(message.body)
    attributes = sum(
        len(n) + len("String") + len(v.encode()) for n, v in message.attributes.items()
    )
    return len(message.body) + attributes


def batches(messages: Sequence[tuple[int, Outgoing]]) -> Iterator[list[tuple[int, Outgoing]]]:
    """Split indexed messages, in order, into what one request can carry."""
    batch: list[tuple[int, Outgoing]] = []
    size = 0
    for index, message in messages:
        bytes_ = size_of(message)
        if batch and (len(batch) == MAX_BATCH_ENTRIES or size + bytes_ > MAX_REQUEST_BYTES):
            yield batch
            batch, size = [], 0
        batch.append((index, message))
        size += bytes_
    if batch:
        yield batch


def printable(text: str) -> str:
    """The text with every character that SQS refuses replaced."""
    return _REFUSED.sub("\N{REPLACEMENT CHARACTER}", text)


def string_attributes(attributes: Mapping[str, Any]) -> dict[str, str]:
    """Message attributes as received; binary ones are left out."""
    return {n: v["StringValue"] for n, v in attributes.items() if "StringValue" in v}


def outgoing_copy(message: Message, attributes: Mapping[str, str]) -> Outgoing:
    """A received message to be sent on under its broker id, with other attributes."""
    safe = {name: printable(value) for name, value in attributes.items()}
    return Outgoing(id=message.message_id, body=message.body, attributes=safe)


def _check_body(encoded: bytes, body: str) -> None:
    # The usual body is ASCII, and to see that is one loop in C.
    if encoded.translate(None, _PLAIN):
        _check_characters("the body", body)


def _check_characters(what: str, text: str) -> None:
    refused = _REFUSED.search(text)
    if refused is not None:
        raise UnsendableError(
            f"{what} holds U+{ord(refused[0]):04X} at {refused.start()}, which SQS does not accept"
        )


def _fifo_token(text: str) -> str:
    """A group or deduplication id: 1 to 128 printable ASCII characters."""
    return text if _FIFO_TOKEN.fullmatch(text) else hashlib.sha256(text.encode()).hexdigest()
