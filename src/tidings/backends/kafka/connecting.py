"""Connects to the brokers for the first time, with errors that tell a person which setting is wrong."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol, TypeVar

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, ClusterMetadata  # type: ignore[attr-defined]

from tidings.backends.kafka.settings import KafkaSettings
from tidings.model.errors import SettingsError, Unavailable

T = TypeVar("T")

_CONNECT_WITHIN_S = 10.0
_LOOK_WITHIN_S = 2.0
_FINAL = {KafkaError._AUTHENTICATION, KafkaError._SSL, KafkaError.SASL_AUTHENTICATION_FAILED}  # noqa: SLF001


class Client(Protocol):
    """Any client of librdkafka."""

    def list_topics(self, *, timeout: float) -> ClusterMetadata:
        """The brokers and topics of the cluster. Raises KafkaException."""
        ...


class Complaints:
    """The last error that explains why a client does not connect. `note` is the client's `error_cb`.

    `is_final`: True if waiting longer will not help.
    """

    def __init__(self) -> None:
        self.last = ""
        self.is_final = False

    def note(self, error: KafkaError) -> None:
        """Remember the error, unless it says that all brokers are down: that follows from a more telling one."""
        if error.code() != KafkaError._ALL_BROKERS_DOWN:  # noqa: SLF001
            self.last = error.str()
            self.is_final = error.code() in _FINAL


def reach(client: Client, settings: KafkaSettings, complaints: Complaints, timeout: float = _CONNECT_WITHIN_S) -> int:
    """The number of brokers, once one of them has answered (blocks).

    Raises:
        SettingsError: the brokers are on other machines, and the connection would be in plaintext.
        Unavailable: no broker answered and let this client in within `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    while True:
        try:
            known = client.list_topics(timeout=min(_LOOK_WITHIN_S, timeout))
            break
        except KafkaException as error:
            if time.monotonic() < deadline and not complaints.is_final:
                continue
            why = complaints.last or error.args[0].str()
            raise Unavailable(
                f"Kafka does not answer at {settings.brokers} ({why}): check queue.brokers, and [kafka] if the "
                "brokers want TLS or a login"
            ) from error
    # The bootstrap servers may be on this machine (a tunnel) while the brokers that they name are elsewhere.
    settings.security.refuse_plaintext([str(broker.host) for broker in known.brokers.values()])
    return len(known.brokers)


def answering(settings: KafkaSettings) -> int:
    """The number of brokers, found with a client for this call. Raises as `reach` and `made`."""
    complaints = Complaints()
    with made(lambda: AdminClient(settings.client(complaints.note))) as client:
        return reach(client, settings, complaints)


def made(make: Callable[[], T]) -> T:
    """A new client. Raises SettingsError if a setting cannot be used, such as a file that is not a certificate."""
    try:
        return make()
    except KafkaException as error:
        raise SettingsError(f"[kafka] cannot be used: {error.args[0].str()}") from error
