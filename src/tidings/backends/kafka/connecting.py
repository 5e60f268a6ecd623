"""Reaching the brokers for the first time: what can be wrong is said here, so that a person knows what to set."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol, TypeVar

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, ClusterMetadata  # type: ignore[attr-defined]

from tidings.backends.kafka.settings import KafkaSettings
from tidings.model.errors import SettingsError, Unavailable

T = TypeVar("T")

_PATIENCE = 10.0
_LOOK = 2.0
_FINAL = {KafkaError._AUTHENTICATION, KafkaError._SSL, KafkaError.SASL_AUTHENTICATION_FAILED}  # noqa: SLF001


class Client(Protocol):
    """Every client of librdkafka."""

    def list_topics(self, *, timeout: float) -> ClusterMetadata:
        """What the cluster consists of. Raises KafkaException."""
        ...


class Complaints:
    """The last error that tells why a client does not get through: `told` is its `error_cb`.

    `is_final`: waiting longer will not help.
    """

    def __init__(self) -> None:
        self.last = ""
        self.is_final = False

    def told(self, error: KafkaError) -> None:
        """That all brokers are down follows from something else, which tells more."""
        if error.code() != KafkaError._ALL_BROKERS_DOWN:  # noqa: SLF001
            self.last = error.str()
            self.is_final = error.code() in _FINAL


def reach(client: Client, settings: KafkaSettings, complaints: Complaints, timeout: float = _PATIENCE) -> int:
    """The number of brokers, when one of them has answered (blocks).

    Raises:
        SettingsError: the brokers are on other machines, and would be spoken to in plaintext.
        Unavailable: none answered within `timeout` seconds, or let this client in.
    """
    deadline = time.monotonic() + timeout
    while True:
        try:
            known = client.list_topics(timeout=min(_LOOK, timeout))
            break
        except KafkaException as error:
            if time.monotonic() < deadline and not complaints.is_final:
                continue
            why = complaints.last or error.args[0].str()
            raise Unavailable(
                f"Kafka does not answer at {settings.brokers} ({why}): check queue.brokers, and [kafka] if the "
                "brokers want TLS or a login"
            ) from error
    # The bootstrap servers may be on this machine (a tunnel), and the brokers that they name elsewhere.
    settings.security.refuse_plaintext([str(broker.host) for broker in known.brokers.values()])
    return len(known.brokers)


def answering(settings: KafkaSettings) -> int:
    """`reach`, by a client for this once. Raises as it does; SettingsError also when no client can be made."""
    complaints = Complaints()
    with made(lambda: AdminClient(settings.client(complaints.told))) as client:
        return reach(client, settings, complaints)


def made(make: Callable[[], T]) -> T:
    """A new client. Raises SettingsError when what is set cannot be used, such as a file that is no certificate."""
    try:
        return make()
    except KafkaException as error:
        raise SettingsError(f"[kafka] cannot be used: {error.args[0].str()}") from error
