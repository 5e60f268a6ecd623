from __future__ import annotations

from pathlib import Path

import pytest
from msgspec import structs

from tidings.backends.kafka.security import Security, hosts_of
from tidings.backends.kafka.settings import KafkaSettings
from tidings.model.errors import SettingsError

PLAIN = Security(sasl="PLAIN", username="u", password="planted-secret")
OAUTH = Security(sasl="OAUTHBEARER", token_url="https://id.example/token", client_id="c", client_secret="s")


@pytest.mark.parametrize(
    ("brokers", "hosts"),
    [
        ("kafka-1:9092,kafka-2:9092", ["kafka-1", "kafka-2"]),
        (" kafka-1:9092 , kafka-2 ,", ["kafka-1", "kafka-2"]),
        ("PLAINTEXT://10.0.0.1:9092", ["10.0.0.1"]),
        ("[::1]:9092,[2001:db8::1]:9092", ["::1", "2001:db8::1"]),
        ("::1", ["::1"]),
        ("", []),
        (" , ", []),
    ],
)
def test_hosts_of_bootstrap_servers(brokers: str, hosts: list[str]) -> None:
    assert list(hosts_of(brokers)) == hosts


@pytest.mark.parametrize(
    "brokers",
    [
        "kafka-1:9092",
        "127.0.0.1:9092,kafka-2:9092",
        "10.0.0.1:9092",
        "[2001:db8::1]:9092",
        "localhost.evil.example:9092",
        "127.0.0.1.evil.example:9092",
        "0.0.0.0:9092",
        "PLAINTEXT://kafka-1:9092",
    ],
)
def test_plaintext_to_another_machine_is_refused_unless_allowed(brokers: str) -> None:
    with pytest.raises(SettingsError, match=r"kafka.tls = true, or.*kafka.allow_plaintext = true"):
        Security().client(brokers)
    with pytest.raises(SettingsError, match="not be encrypted"):
        PLAIN.client(brokers)
    assert Security(allow_plaintext=True).client(brokers)["security.protocol"] == "plaintext"
    assert Security(tls=True).client(brokers)["security.protocol"] == "ssl"
    assert structs.replace(PLAIN, tls=True).client(brokers)["security.protocol"] == "sasl_ssl"


@pytest.mark.parametrize("brokers", ["127.0.0.1:9092", "localhost:9092,LOCALHOST", "[::1]:9092", "127.8.8.8:1"])
def test_this_machine_needs_no_tls(brokers: str) -> None:
    assert Security().client(brokers) == {"security.protocol": "plaintext"}
    assert PLAIN.client(brokers)["security.protocol"] == "sasl_plaintext"


def test_no_brokers_at_all() -> None:
    with pytest.raises(SettingsError, match="brokers is empty"):
        Security(tls=True).client("")


def test_certificates_and_names_are_always_verified() -> None:
    found = Security(tls=True).client("kafka-1")
    assert found["enable.ssl.certificate.verification"] == "true"
    assert found["ssl.endpoint.identification.algorithm"] == "https"


@pytest.mark.parametrize(
    ("security", "why"),
    [
        (Security(ca_file="x"), "kafka.ca_file is set, but kafka.tls is not"),
        (Security(key_password="x"), "kafka.key_password is set, but kafka.tls is not"),
        (Security(tls=True, certificate_file="x"), "belong together"),
        (Security(tls=True, key_file="x"), "belong together"),
        (Security(tls=True, key_password="x"), "kafka.key_file is not"),
        (Security(tls=True, ca_file="/nowhere/ca.pem"), "kafka.ca_file: /nowhere/ca.pem cannot be read"),
        (Security(sasl="GSSAPI"), "it may be PLAIN, SCRAM-SHA-256, SCRAM-SHA-512, OAUTHBEARER"),
        (Security(sasl="PLAIN", username="u"), "needs kafka.password"),
        (Security(sasl="SCRAM-SHA-256", password="p"), "needs kafka.username"),
        (Security(sasl="OAUTHBEARER", token_url="https://x", client_id="c"), "needs kafka.client_secret"),
        (Security(password="p"), "kafka.password is set, but has no meaning without kafka.sasl"),
        (structs.replace(PLAIN, client_id="c"), 'kafka.client_id is set, but has no meaning with kafka.sasl = "PLAIN"'),
        (structs.replace(OAUTH, username="u"), "kafka.username is set, but has no meaning"),
        (structs.replace(PLAIN, scope="s"), "kafka.scope is set, but has a meaning only"),
        (structs.replace(OAUTH, token_url="http://id.example/token"), "must start with https://: the client's secret"),
        (structs.replace(OAUTH, token_url="id.example"), "must start with https:// and name a host"),
        (structs.replace(OAUTH, token_url="https://["), "is not a URL"),
    ],
)
def test_missing_and_contradicting_settings_are_named(security: Security, why: str) -> None:
    with pytest.raises(SettingsError) as told:
        security.client("127.0.0.1:9092")
    assert why in str(told.value)


def test_a_token_from_this_machine_needs_no_tls(tmp_path: Path) -> None:
    found = structs.replace(OAUTH, token_url="http://127.0.0.1:1/token", scope="kafka").client("127.0.0.1:9092")
    assert found["sasl.oauthbearer.method"] == "oidc"
    assert found["sasl.oauthbearer.scope"] == "kafka"
    assert "https.ca.location" not in found


def test_secrets_are_not_in_any_text_of_the_settings() -> None:
    for text in (repr(PLAIN), str(PLAIN), repr(KafkaSettings("127.0.0.1:1", security=PLAIN)), f"{PLAIN!r}"):
        assert "planted-secret" not in text
