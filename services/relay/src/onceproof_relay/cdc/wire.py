"""The one operation of SQS that Debezium uses, in the two protocols that Amazon's clients speak.

Debezium 3.6 brings a client from 2020, which sends forms and wants XML; newer ones send JSON.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Final
from urllib.parse import parse_qs
from uuid import uuid4
from xml.sax.saxutils import escape

from starlette.responses import Response

_TARGET: Final = "AmazonSQS.SendMessage"
_ACCEPTED: Final = (
    '<SendMessageResponse xmlns="http://queue.amazonaws.com/doc/2012-11-05/"><SendMessageResult>'
    "<MessageId>{id}</MessageId><MD5OfMessageBody>{digest}</MD5OfMessageBody></SendMessageResult>"
    "<ResponseMetadata><RequestId>{request}</RequestId></ResponseMetadata></SendMessageResponse>"
)
_REFUSED: Final = (
    "<ErrorResponse><Error><Type>{type}</Type><Code>{code}</Code><Message>{message}</Message></Error>"
    "<RequestId>{request}</RequestId></ErrorResponse>"
)


def message_of(headers: Mapping[str, str], body: bytes) -> str | None:
    """The body of the message that a request sends; None: it is no SendMessage."""
    if target := headers.get("x-amz-target"):
        try:
            text = json.loads(body)["MessageBody"] if target == _TARGET else None
        except (ValueError, TypeError, KeyError):
            return None
        return text if isinstance(text, str) else None
    form = parse_qs(body.decode(errors="replace"), keep_blank_values=True)
    if form.get("Action") != ["SendMessage"]:
        return None
    return form.get("MessageBody", [None])[0]


def accepted(headers: Mapping[str, str], text: str, message_id: str) -> Response:
    """The answer to a message that was sent. The client compares the digest with its own."""
    digest = hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
    if "x-amz-target" in headers:
        return _json(200, {"MessageId": message_id, "MD5OfMessageBody": digest})
    return _xml(200, _ACCEPTED.format(id=escape(message_id), digest=digest, request=uuid4()))


def refused(headers: Mapping[str, str], status: int, code: str, message: str) -> Response:
    """The answer to one that was not. From 500 on, the client tries again."""
    if "x-amz-target" in headers:
        return _json(status, {"__type": f"com.amazonaws.sqs#{code}", "message": message})
    fault = "Receiver" if status >= 500 else "Sender"
    error = _REFUSED.format(type=fault, code=code, message=escape(message), request=uuid4())
    return _xml(status, error)


def _json(status: int, body: Mapping[str, str]) -> Response:
    return Response(json.dumps(body), status, media_type="application/x-amz-json-1.0")


def _xml(status: int, body: str) -> Response:
    return Response(f'<?xml version="1.0"?>{body}', status, media_type="text/xml")
