"""The security of connections to Kafka: TLS, and the client's login (SASL). Never logged or shown."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

from msgspec import Struct

from tidings.model.errors import SettingsError

PASSWORDS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
"""Mechanisms with a user name and a password."""
OAUTH = "OAUTHBEARER"
"""The mechanism with a token, fetched by the client credentials of OpenID Connect."""


class Security(Struct, frozen=True):
    """Security settings. Empty means not set. Files are PEM; `token_url` is the OpenID provider's token endpoint."""

    tls: bool = False
    ca_file: str = ""
    certificate_file: str = ""
    key_file: str = ""
    key_password: str = ""
    sasl: str = ""
    username: str = ""
    password: str = ""
    token_url: str = ""
    token_ca_file: str = ""
    client_id: str = ""
    client_secret: str = ""
    scope: str = ""
    allow_plaintext: bool = False

    def __repr__(self) -> str:
        """The settings without secrets."""
        return f"Security(tls={self.tls}, sasl={self.sasl!r})"

    def client(self, brokers: str) -> dict[str, str]:
        """The settings for librdkafka.

        Raises:
            SettingsError: a setting is missing or contradicts another, or data would cross a network unencrypted.
        """
        hosts = list(hosts_of(brokers))
        if not hosts:
            raise SettingsError('queue.brokers is empty: list the bootstrap servers, such as "host:9092,host2:9092"')
        self.refuse_plaintext(hosts)
        self._refuse_contradictions()
        protocol = ("SASL_" if self.sasl else "") + ("SSL" if self.tls else "PLAINTEXT")
        found = {"security.protocol": protocol.lower()}
        if self.tls:
            found |= {
                "enable.ssl.certificate.verification": "true",
                "ssl.endpoint.identification.algorithm": "https",
                **_present("ssl.ca.location", _file("ca_file", self.ca_file)),
                **_present("ssl.certificate.location", _file("certificate_file", self.certificate_file)),
                **_present("ssl.key.location", _file("key_file", self.key_file)),
                **_present("ssl.key.password", self.key_password),
            }
        if self.sasl:
            found["sasl.mechanisms"] = self.sasl
        if self.sasl in PASSWORDS:
            found |= {"sasl.username": self.username, "sasl.password": self.password}
        if self.sasl == OAUTH:
            found |= {
                "sasl.oauthbearer.method": "oidc",
                "sasl.oauthbearer.token.endpoint.url": self.token_url,
                "sasl.oauthbearer.client.id": self.client_id,
                "sasl.oauthbearer.client.secret": self.client_secret,
                **_present("sasl.oauthbearer.scope", self.scope),
                **_present("https.ca.location", _file("token_ca_file", self.token_ca_file)),
            }
        return found

    def refuse_plaintext(self, hosts: Iterable[str]) -> None:
        """Raises SettingsError if one of the hosts is on another machine and the connection would have no TLS."""
        remote = next((host for host in hosts if not _is_loopback(host)), None)
        if remote is not None and not self.tls and not self.allow_plaintext:
            raise SettingsError(
                f"the Kafka broker {remote} is not on this machine, and the connection would not be encrypted: set "
                "kafka.tls = true, or, in a network that nobody else can read, kafka.allow_plaintext = true"
            )

    def _refuse_contradictions(self) -> None:
        if self.sasl and self.sasl not in (*PASSWORDS, OAUTH):
            raise SettingsError(f"kafka.sasl is {self.sasl!r}; it may be {', '.join((*PASSWORDS, OAUTH))}")
        if not self.tls:
            for name in ("ca_file", "certificate_file", "key_file", "key_password"):
                if getattr(self, name):
                    raise SettingsError(f"kafka.{name} is set, but kafka.tls is not: set kafka.tls = true")
        if bool(self.certificate_file) != bool(self.key_file):
            raise SettingsError("kafka.certificate_file and kafka.key_file belong together: set both or none")
        if self.key_password and not self.key_file:
            raise SettingsError("kafka.key_password is set, but kafka.key_file is not")
        uses = {
            "username": self.sasl in PASSWORDS,
            "password": self.sasl in PASSWORDS,
            "token_url": self.sasl == OAUTH,
            "client_id": self.sasl == OAUTH,
            "client_secret": self.sasl == OAUTH,
        }
        for name, needed in uses.items():
            if needed and not getattr(self, name):
                raise SettingsError(f'kafka.sasl = "{self.sasl}" needs kafka.{name}')
            if not needed and getattr(self, name):
                said = f'with kafka.sasl = "{self.sasl}"' if self.sasl else "without kafka.sasl"
                raise SettingsError(f"kafka.{name} is set, but has no meaning {said}")
        for name in ("scope", "token_ca_file"):
            if getattr(self, name) and self.sasl != OAUTH:
                raise SettingsError(f'kafka.{name} is set, but has a meaning only with kafka.sasl = "{OAUTH}"')
        if self.token_url:
            self._refuse_token_url()

    def _refuse_token_url(self) -> None:
        try:
            url = urlsplit(self.token_url)
            host = url.hostname
        except ValueError as error:
            raise SettingsError(f"kafka.token_url is not a URL: {error}") from error
        if url.scheme not in {"http", "https"} or not host:
            raise SettingsError("kafka.token_url must start with https:// and name a host")
        if url.scheme == "http" and not _is_loopback(host):
            raise SettingsError("kafka.token_url must start with https://: the client's secret goes there")


def hosts_of(brokers: str) -> Iterator[str]:
    """The hosts of a list of bootstrap servers, `[protocol://]host[:port],…`, without brackets."""
    for entry in brokers.split(","):
        place = entry.strip().rpartition("://")[2]
        if place.startswith("["):
            yield place[1:].partition("]")[0]
        elif place.count(":") > 1:
            yield place  # an IPv6 address without brackets
        elif place:
            yield place.partition(":")[0]


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower().rstrip(".") == "localhost"


def _file(name: str, path: str) -> str:
    if path:
        try:
            with Path(path).open("rb"):
                pass
        except OSError as error:
            raise SettingsError(f"kafka.{name}: {path} cannot be read: {error.strerror}") from error
    return path


def _present(name: str, value: str) -> dict[str, str]:
    return {name: value} if value else {}
