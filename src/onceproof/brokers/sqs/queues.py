"""Queue URLs, settings and creation.

A queue is named in configuration and addressed by URL. The URL is asked for once; it is forgotten
when the broker says that the queue is gone, because a queue that is created again is a new one.
"""

from __future__ import annotations

import json
import math
from typing import Any

from botocore.exceptions import ClientError

from onceproof.brokers.sqs.failures import (
    CALL_FAILURES,
    code_and_reason,
    is_missing_queue,
    translated,
)
from onceproof.errors import BrokerUnavailableError, QueueNotFoundError
from onceproof.ports import QueueDepth, QueueInfo


class SqsQueues:
    """The queues of one region and account.

    Args:
        client: an open aiobotocore SQS client.
    """

    def __init__(self, client: Any) -> None:  # noqa: ANN401 - aiobotocore ships no types
        self._client = client
        self._urls: dict[str, str] = {}

    async def url(self, name: str) -> str:
        """The URL of a queue.

        Raises:
            QueueNotFoundError: it does not exist.
            BrokerUnavailableError: the broker did not answer.
        """
        if name not in self._urls:
            try:
                reply = await self._client.get_queue_url(QueueName=name)
            except CALL_FAILURES as error:
                raise translated(error, name) from error
            self._urls[name] = _required(reply, "QueueUrl", name)
        return self._urls[name]

    def forget_if_missing(self, name: str, error: BaseException) -> None:
        """Ask for the URL again next time, when this error says that the queue is gone."""
        if is_missing_queue(error):
            self._urls.pop(name, None)

    async def describe(self, name: str) -> QueueInfo:
        """Settings of a queue and of its DLQ; see `onceproof.ports.Subscriber.describe`."""
        attributes = await self.attributes(name)
        dead_letter = _dead_letter_name(attributes)
        target = None
        if dead_letter is not None:
            try:
                target = _info(dead_letter, await self.attributes(dead_letter), None)
            except QueueNotFoundError as error:
                raise QueueNotFoundError(
                    f"queue {name!r} redrives to {dead_letter!r}, which does not exist; create it, "
                    "or the messages that nobody can process stay in the queue until they expire"
                ) from error
        return _info(name, attributes, target)

    async def depth(self, name: str) -> QueueDepth:
        """Approximate numbers of messages."""
        attributes = await self.attributes(name)
        return QueueDepth(
            visible=int(attributes["ApproximateNumberOfMessages"]),
            in_flight=int(attributes["ApproximateNumberOfMessagesNotVisible"]),
            delayed=int(attributes["ApproximateNumberOfMessagesDelayed"]),
        )

    async def attributes(self, name: str) -> dict[str, str]:
        """All attributes of a queue, as the broker names them."""
        url = await self.url(name)
        try:
            reply = await self._client.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])
        except CALL_FAILURES as error:
            self.forget_if_missing(name, error)
            raise translated(error, name) from error
        return dict(_required(reply, "Attributes", name))

    async def ensure(
        self,
        name: str,
        *,
        visibility_timeout_s: float,
        retention_s: float,
        max_receive_count: int,
        dead_letter: str | None,
    ) -> None:
        """Create a queue, or bring an existing one to these settings."""
        wanted = {
            "VisibilityTimeout": str(math.ceil(visibility_timeout_s)),
            "MessageRetentionPeriod": str(math.ceil(retention_s)),
        }
        if dead_letter is not None:
            arn = (await self.attributes(dead_letter))["QueueArn"]
            wanted["RedrivePolicy"] = json.dumps(
                {"deadLetterTargetArn": arn, "maxReceiveCount": max_receive_count}
            )
        fixed = {"FifoQueue": "true"} if name.endswith(".fifo") else {}
        try:
            try:
                reply = await self._client.create_queue(QueueName=name, Attributes=wanted | fixed)
                self._urls[name] = reply["QueueUrl"]
            except ClientError as error:
                if "Exist" not in code_and_reason(error)[0]:
                    raise
            # A broker may answer an identical name with the old settings instead of an error.
            await self._client.set_queue_attributes(
                QueueUrl=await self.url(name), Attributes=wanted
            )
        except CALL_FAILURES as error:
            raise translated(error, name) from error

    async def delete(self, name: str) -> None:
        """Delete a queue with all of its messages; harmless when there is none."""
        try:
            await self._client.delete_queue(QueueUrl=await self.url(name))
        except QueueNotFoundError:
            return
        except CALL_FAILURES as error:
            raise translated(error, name) from error
        finally:
            self._urls.pop(name, None)


def _required(reply: dict[str, Any], field: str, name: str) -> Any:  # noqa: ANN401 - as above
    """A field of a reply; botocore takes any page with status 200 for an empty one."""
    if field not in reply:
        raise BrokerUnavailableError(f"SQS queue {name!r}: the reply is not an answer of SQS")
    return reply[field]


def _dead_letter_name(attributes: dict[str, str]) -> str | None:
    policy = json.loads(attributes.get("RedrivePolicy") or "{}")
    arn = policy.get("deadLetterTargetArn")
    return str(arn).rpartition(":")[2] if arn else None


def _info(name: str, attributes: dict[str, str], dead_letter: QueueInfo | None) -> QueueInfo:
    policy = json.loads(attributes.get("RedrivePolicy") or "{}")
    return QueueInfo(
        name=name,
        visibility_timeout_s=float(attributes["VisibilityTimeout"]),
        # ElasticMQ names no retention period, because it keeps messages until they are deleted.
        retention_s=float(attributes.get("MessageRetentionPeriod", "inf")),
        max_receive_count=int(policy["maxReceiveCount"]) if "maxReceiveCount" in policy else None,
        dead_letter=dead_letter,
        keeps_order=name.endswith(".fifo"),
    )
