"""Brokers with TLS and logins: which clients get in, what errors the others get, and that no secret is printed."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog.testing
from msgspec import structs

from support import needs
from support.kafka import KafkaBroker
from support.kafka_security import (
    CLIENT,
    CLIENT_SECRET,
    GUEST,
    KEY_PASSWORD,
    PASSWORD,
    USER,
    Authority,
    Secured,
)
from support.queues import items_of, take
from tidings.backends.kafka.queue import KafkaQueue
from tidings.backends.kafka.security import Security
from tidings.backends.kafka.settings import KafkaSettings
from tidings.model.errors import SettingsError, Unavailable
from tidings.ports.queue import Item

pytestmark = needs("kafka")
GROUP = "readers"
SECRETS = (PASSWORD, CLIENT_SECRET, KEY_PASSWORD)


@pytest.fixture(autouse=True)
def nothing_secret_is_printed(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    with caplog.at_level(logging.DEBUG), structlog.testing.capture_logs() as logged:
        yield
    printed = capfd.readouterr()
    said = f"{caplog.text}{logged}{printed.out}{printed.err}"
    assert not any(secret in said for secret in SECRETS)


async def expect_access(settings: KafkaSettings) -> None:
    """Use everything that Tidings needs of a broker: producer, administration and consumer."""
    queue = await KafkaQueue.open_with(settings)
    try:
        await queue.declare({"topic": (GROUP,)})
        await queue.put([Item("topic", "k", b"x")])
        (claim,) = await take(queue, "topic", GROUP, 1, lease_s=30.0)
        assert [item.body for item in items_of([claim])] == [b"x"]
        await claim.done()
        assert len((await queue.extent("topic", GROUP)).put) == settings.partitions
    finally:
        await queue.close()


def tls(secured: Secured, **more: str) -> Security:
    return structs.replace(Security(tls=True, ca_file=str(secured.authority.file)), **more)


def at(secured: Secured, listener: str, security: Security, prefix: str) -> KafkaSettings:
    return KafkaSettings(secured.at(listener), partitions=2, prefix=prefix, security=security)


async def expect_refusal(settings: KafkaSettings, why: str) -> None:
    async with asyncio.timeout(30):
        with pytest.raises(Unavailable, match=why) as error:
            await KafkaQueue.open_with(settings)
    assert not any(secret in str(error.value) + repr(settings) for secret in SECRETS)


async def test_remote_brokers_behind_a_local_bootstrap_server_need_tls(tmp_path: Path) -> None:
    broker = KafkaBroker(tmp_path, {"inter.broker.listener.name": "PLAINTEXT"}, advertised=socket.gethostname())
    try:
        await asyncio.to_thread(broker.start)
        with pytest.raises(SettingsError, match=f"broker {socket.gethostname()} is not on this machine"):
            await KafkaQueue.open(broker.bootstrap)
    finally:
        await asyncio.to_thread(broker.kill)


class TestTls:
    async def test_with_the_right_authority(self, secured_kafka: Secured, kafka_prefix: str) -> None:
        # With TLS alone the client is anonymous, and in this test the broker lets anonymous clients do everything.
        await expect_access(at(secured_kafka, "SSL", tls(secured_kafka), kafka_prefix))

    async def test_a_broker_that_the_authority_did_not_sign(
        self, secured_kafka: Secured, kafka_prefix: str, tmp_path: Path
    ) -> None:
        other = Authority(tmp_path, "other")
        await expect_refusal(
            at(secured_kafka, "SSL", Security(tls=True, ca_file=str(other.file)), kafka_prefix), "certificate"
        )

    async def test_a_broker_under_another_name(self, secured_kafka: Secured, kafka_prefix: str) -> None:
        brokers = secured_kafka.at("SSL").replace("127.0.0.1", "localhost")
        settings = KafkaSettings(brokers, prefix=kafka_prefix, security=tls(secured_kafka))
        await expect_refusal(settings, "certificate|host")

    async def test_plaintext_to_a_broker_that_speaks_tls(self, secured_kafka: Secured, kafka_prefix: str) -> None:
        await expect_refusal(at(secured_kafka, "SSL", Security(), kafka_prefix), r"\[kafka\] if the brokers want TLS")

    @pytest.mark.parametrize("password", ["", KEY_PASSWORD])
    async def test_with_a_certificate_of_its_own(
        self, secured_kafka: Secured, kafka_prefix: str, password: str
    ) -> None:
        certificate, key = secured_kafka.authority.issue("client", None, password)
        files = {"certificate_file": str(certificate), "key_file": str(key), "key_password": password}
        await expect_access(at(secured_kafka, "MTLS", tls(secured_kafka, **files), kafka_prefix))

    async def test_without_the_certificate_that_the_broker_wants(
        self, secured_kafka: Secured, kafka_prefix: str
    ) -> None:
        await expect_refusal(at(secured_kafka, "MTLS", tls(secured_kafka), kafka_prefix), "certificate|SSL|ssl")

    async def test_a_file_that_is_no_certificate(
        self, secured_kafka: Secured, kafka_prefix: str, tmp_path: Path
    ) -> None:
        file = tmp_path / "nonsense.pem"
        file.write_text("nonsense")
        with pytest.raises(SettingsError, match=r"\[kafka\] cannot be used"):
            await KafkaQueue.open_with(at(secured_kafka, "SSL", Security(tls=True, ca_file=str(file)), kafka_prefix))


class TestLogins:
    @pytest.mark.parametrize("sasl", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
    async def test_with_the_password(self, secured_kafka: Secured, kafka_prefix: str, sasl: str) -> None:
        login = tls(secured_kafka, sasl=sasl, username=USER, password=PASSWORD)
        await expect_access(at(secured_kafka, "SASL_SSL", login, kafka_prefix))

    @pytest.mark.parametrize("sasl", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
    async def test_with_a_wrong_password(self, secured_kafka: Secured, kafka_prefix: str, sasl: str) -> None:
        login = tls(secured_kafka, sasl=sasl, username=USER, password=PASSWORD + "!")
        await expect_refusal(at(secured_kafka, "SASL_SSL", login, kafka_prefix), "[Aa]uthentication")

    async def test_with_a_token(self, secured_kafka: Secured, kafka_prefix: str) -> None:
        login = oauth(secured_kafka, CLIENT_SECRET)
        await expect_access(at(secured_kafka, "SASL_SSL", login, kafka_prefix))
        assert secured_kafka.openid.granted > 0

    async def test_with_a_wrong_client_secret(self, secured_kafka: Secured, kafka_prefix: str) -> None:
        login = oauth(secured_kafka, CLIENT_SECRET + "!")
        await expect_refusal(at(secured_kafka, "SASL_SSL", login, kafka_prefix), "OAUTHBEARER|token|OIDC")
        assert secured_kafka.openid.refused > 0

    async def test_a_client_that_may_not_create_topics_names_the_command(
        self, secured_kafka: Secured, kafka_prefix: str
    ) -> None:
        login = tls(secured_kafka, sasl="PLAIN", username=GUEST, password=PASSWORD)
        queue = await KafkaQueue.open_with(at(secured_kafka, "SASL_SSL", login, kafka_prefix))
        try:
            with pytest.raises(
                SettingsError, match=r"refuses to create .*\n.*kafka-topics.sh .*--config retention.ms=-1"
            ):
                await queue.declare({"topic": (GROUP,)})
        finally:
            await queue.close()


def oauth(secured: Secured, secret: str) -> Security:
    url = f"{secured.openid.url}/token"
    return tls(secured, sasl="OAUTHBEARER", token_url=url, client_id=CLIENT, client_secret=secret, scope="kafka")
