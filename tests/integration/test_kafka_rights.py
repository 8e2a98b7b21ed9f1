"""A user without rights: clear words, no crash loop, and nothing lost."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._acl import AclBinding, AclOperation, AclPermissionType
from confluent_kafka.admin._resource import ResourcePatternType, ResourceType

from onceproof.brokers.kafka import KafkaBroker, KafkaSettings
from onceproof.errors import BrokerUnavailableError
from onceproof.ports import Outgoing
from onceproof_chaos.embedded import EmbeddedKafka

ACLS = {
    "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    "super.users": "User:admin",
    "allow.everyone.if.no.acl.found": "false",
    "listener.security.protocol.map": "PLAINTEXT:SASL_PLAINTEXT,CONTROLLER:SASL_PLAINTEXT",
    "sasl.enabled.mechanisms": "PLAIN",
    "sasl.mechanism.inter.broker.protocol": "PLAIN",
    "sasl.mechanism.controller.protocol": "PLAIN",
    **{
        f"listener.name.{listener}.plain.sasl.jaas.config": (
            "org.apache.kafka.common.security.plain.PlainLoginModule required "
            'username="admin" password="a" user_admin="a" user_clerk="c";'
        )
        for listener in ("plaintext", "controller")
    },
}


@pytest.fixture(scope="module")
def guarded(kafka_jars_installed: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    del kafka_jars_installed  # only to skip
    folder: Path = tmp_path_factory.mktemp("kafka")
    with EmbeddedKafka(folder, ACLS) as server:
        yield server.bootstrap


def settings(bootstrap: str, user: str, password: str) -> KafkaSettings:
    return KafkaSettings(
        bootstrap,
        group="clerks",
        session_s=3,
        request_timeout_s=3,
        send_timeout_s=3,
        security={
            "security.protocol": "SASL_PLAINTEXT",
            "sasl.mechanism": "PLAIN",
            "sasl.username": user,
            "sasl.password": password,
        },
    )


async def grant(bootstrap: str) -> None:
    """Everything on topics, and nothing on groups, for the clerk."""
    admin = AdminClient(settings(bootstrap, "admin", "a").client())
    binding = AclBinding(
        ResourceType.TOPIC, "orders", ResourcePatternType.LITERAL, "User:clerk", "*",
        AclOperation.ALL, AclPermissionType.ALLOW,
    )  # fmt: skip
    await asyncio.to_thread(admin.create_acls([binding])[binding].result, 10)


async def test_a_group_that_the_user_may_not_use(guarded: str) -> None:
    async with KafkaBroker.connect(settings(guarded, "admin", "a")) as owner:
        await owner.ensure_topic("orders", partitions=1)
    await grant(guarded)
    async with KafkaBroker.connect(settings(guarded, "clerk", "c")) as clerk:
        (sent,) = await clerk.send("orders", [Outgoing("e", b"{}")])
        assert sent.ok
        subscriber = clerk.subscriber("orders")
        for _ in range(2):  # and it stays a plain answer
            with pytest.raises(BrokerUnavailableError, match="may not read in this consumer group"):
                await subscriber.receive(max_messages=1, wait_s=10, visibility_s=30)


async def test_a_topic_that_the_user_may_not_use(guarded: str) -> None:
    async with KafkaBroker.connect(settings(guarded, "admin", "a")) as owner:
        await owner.ensure_topic("secrets", partitions=1)
    async with KafkaBroker.connect(settings(guarded, "clerk", "c")) as clerk:
        (sent,) = await clerk.send("secrets", [Outgoing("e", b"{}")])
        assert sent.error is not None
        assert "may not use this topic" in sent.error


async def test_a_wrong_password(guarded: str) -> None:
    async with KafkaBroker.connect(settings(guarded, "clerk", "wrong")) as stranger:
        (sent,) = await stranger.send("orders", [Outgoing("e", b"{}")])
        assert sent.error is not None
        with pytest.raises(BrokerUnavailableError):
            await stranger.subscriber("orders").receive(max_messages=1, wait_s=1, visibility_s=30)
        assert "wrong" not in repr(settings(guarded, "clerk", "wrong"))
