"""The one operation of Kinesis that Debezium uses: PutRecords, as JSON.

Its sink for Kinesis is the one among those that need nothing but HTTP which sends batches, and sends
again what of a batch was refused.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from starlette.responses import Response

_PUT_RECORDS: Final = "Kinesis_20131202.PutRecords"
_JSON: Final = "application/x-amz-json-1.1"
_SHARD: Final = "outbox"
"""The client wants one in each answer, and does nothing with it."""


@dataclass(frozen=True, slots=True)
class Put:
    """What a request holds: the stream that it is for, and the records' texts in their order."""

    stream: str
    texts: Sequence[str]


def put_of(headers: Mapping[str, str], body: bytes) -> Put | None:
    """What a request puts; None: it is no PutRecords, or none that can be read."""
    if headers.get("x-amz-target") != _PUT_RECORDS:
        return None
    try:
        asked: dict[str, Any] = json.loads(body)
        data = [base64.b64decode(record["Data"], validate=True) for record in asked["Records"]]
        return Put(str(asked["StreamName"]), [one.decode(errors="replace") for one in data])
    except (ValueError, TypeError, KeyError, binascii.Error):
        return None


def answered(errors: Sequence[str | None]) -> Response:
    """The answer to a put: for each record None, or why it was not sent and is to come again."""
    records = [
        {"SequenceNumber": str(number), "ShardId": _SHARD}
        if error is None
        else {"ErrorCode": "InternalFailure", "ErrorMessage": error}
        for number, error in enumerate(errors)
    ]
    failed = len(errors) - errors.count(None)
    return _json(200, {"FailedRecordCount": failed, "Records": records})


def refused(message: str) -> Response:
    """The answer to what is not known here."""
    return _json(400, {"__type": "UnknownOperationException", "message": message})


def _json(status: int, body: Mapping[str, object]) -> Response:
    return Response(json.dumps(body), status, media_type=_JSON)
