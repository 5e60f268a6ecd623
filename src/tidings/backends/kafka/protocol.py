"""Chooses the group protocol: Kafka's `consumer` protocol (KIP-848), or the classic one."""

from __future__ import annotations

import threading

import structlog
from confluent_kafka import KafkaError

from tidings.model.errors import SettingsError

AUTO, CONSUMER, CLASSIC = "auto", "consumer", "classic"
_UNKNOWN = [
    KafkaError(code).str()
    for code in (KafkaError.UNSUPPORTED_VERSION, KafkaError._UNSUPPORTED_FEATURE)  # noqa: SLF001
]
"""Texts of errors, because a consumer wraps its last error into one with the code _FATAL and keeps only its text."""
_log = structlog.get_logger("tidings.kafka")


class GroupProtocol:
    """The group protocol of all readers of a client. `wanted` is one of AUTO, CONSUMER, CLASSIC."""

    def __init__(self, wanted: str = AUTO) -> None:
        if wanted not in {AUTO, CONSUMER, CLASSIC}:
            raise SettingsError(f"kafka.group_protocol is {wanted!r}; it may be {AUTO}, {CONSUMER}, {CLASSIC}")
        self._automatic = wanted == AUTO
        self._lock = threading.Lock()
        self.name = CLASSIC if wanted == CLASSIC else CONSUMER

    def refused(self, used: str, error: KafkaError) -> bool:
        """Take in that a consumer with the protocol `used` failed. True if it must be made again with the other one."""
        if used != CONSUMER or not any(text in error.str() for text in _UNKNOWN) or not self._automatic:
            return False
        with self._lock:
            if self.name == CONSUMER:
                self.name = CLASSIC
                _log.warning(
                    "the brokers do not know the consumer group protocol, or do not allow it; the classic one is used",
                    why=error.str(),
                )
        return True
