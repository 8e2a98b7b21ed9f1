"""What the SQS adapter makes of a reply that is lost, and of one that is no answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from onceproof.brokers.sqs import SqsBroker
from onceproof.errors import BrokerUnavailableError
from onceproof.ports import Message, Outgoing

QUEUE_URL = b'{"QueueUrl": "http://127.0.0.1/0/q"}'
ANY_KEY = "any"
Reply = Callable[[asyncio.StreamWriter], None]


def http(status: str, body: bytes) -> bytes:
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status.encode(), len(body), body)


def hang_up(writer: asyncio.StreamWriter) -> None:
    del writer


def say(status: str, body: bytes) -> Reply:
    return lambda writer: writer.write(http(status, body))


@asynccontextmanager
async def broker_that(reply: Reply) -> AsyncIterator[SqsBroker]:
    """A server that knows the queue and answers everything else with `reply`."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            lines = dict(line.lower().split(b": ", 1) for line in head.splitlines()[1:] if line)
            await reader.readexactly(int(lines[b"content-length"]))
            if lines[b"x-amz-target"] == b"amazonsqs.getqueueurl":
                writer.write(http("200 OK", QUEUE_URL))
            else:
                reply(writer)
                await writer.drain()
                break
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with (
        server,
        SqsBroker.connect(
            endpoint_url=f"http://127.0.0.1:{port}",
            region="us-east-1",
            access_key_id=ANY_KEY,
            secret_access_key=ANY_KEY,
        ) as broker,
    ):
        yield broker


REFUSED = b'{"__type": "com.amazonaws.sqs#InvalidParameterValue", "message": "too old"}'
FAILED = b'{"__type": "com.amazonaws.sqs#InternalError", "message": "sorry"}'


@pytest.mark.parametrize(
    ("reply", "unknown"),
    [
        pytest.param(hang_up, True, id="connection closed"),
        pytest.param(say("500 Oh", FAILED), True, id="server error"),
        pytest.param(say("502 Bad Gateway", b"<html>proxy</html>"), True, id="proxy error"),
        pytest.param(say("200 OK", b"{}"), True, id="entry not mentioned"),
        pytest.param(say("200 OK", b"<html>portal</html>"), True, id="not an answer"),
        pytest.param(say("400 Bad Request", REFUSED), False, id="refused"),
    ],
)
async def test_send_names_a_lost_reply(reply: Reply, unknown: bool) -> None:
    async with broker_that(reply) as broker:
        (result,) = await broker.send("q", [Outgoing("e1", b"body")])
        assert result.error is not None
        assert result.error.startswith("outcome unknown: ") is unknown


@pytest.mark.parametrize("reply", [hang_up, say("500 Oh", FAILED)])
async def test_receive_and_settle_report_a_lost_reply(reply: Reply) -> None:
    async with broker_that(reply) as broker:
        subscriber = broker.subscriber("q")
        with pytest.raises(BrokerUnavailableError):
            await subscriber.receive(max_messages=1, wait_s=1, visibility_s=2)
        (result,) = await subscriber.ack([Message(b"", "m", "receipt", 1, 0.0)])
        assert not result.ok
        assert not result.stale


async def test_a_page_that_is_not_an_answer() -> None:
    async with broker_that(say("200 OK", b"<html>portal</html>")) as broker:
        with pytest.raises(BrokerUnavailableError, match="not an answer"):
            await broker.subscriber("q").depth()
