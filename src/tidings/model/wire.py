"""The bytes that model structs have in queues and the store: a version octet, then MessagePack.

Structs on the wire are arrays: a reader takes the fields that it knows, gives missing trailing ones their defaults and
ignores surplus ones, so the previous and the next version read each other during a rolling deploy. A change that this
cannot carry needs a new version octet and a reader for both.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

import msgspec

from tidings.model.delivery import Delivery
from tidings.model.errors import Unreadable
from tidings.model.notification import Notification
from tidings.model.outcome import Outcome

_VERSION = b"\x01"
_encoder = msgspec.msgpack.Encoder()
_notifications = msgspec.msgpack.Decoder(Notification)
_deliveries = msgspec.msgpack.Decoder(Delivery)
_outcomes = msgspec.msgpack.Decoder(list[Outcome])

T = TypeVar("T")


def encode(value: Notification | Delivery) -> bytes:
    """The body of a queue item."""
    return _VERSION + _encoder.encode(value)


def encode_outcomes(outcomes: Iterable[Outcome]) -> bytes:
    """The body of an item of `outcomes`: outcomes travel in packs."""
    return _VERSION + _encoder.encode(list(outcomes))


def decode_notification(body: bytes) -> Notification:
    """The reverse of `encode`. Raises Unreadable."""
    return _decode(_notifications, body)


def decode_delivery(body: bytes) -> Delivery:
    """The reverse of `encode`. Raises Unreadable."""
    return _decode(_deliveries, body)


def decode_outcomes(body: bytes) -> list[Outcome]:
    """The reverse of `encode_outcomes`. Raises Unreadable."""
    return _decode(_outcomes, body)


def _decode(decoder: msgspec.msgpack.Decoder[T], body: bytes) -> T:
    if body[:1] != _VERSION:
        raise Unreadable(f"unknown version octet {body[:1]!r}")
    try:
        return decoder.decode(memoryview(body)[1:])
    except msgspec.MsgspecError as error:
        raise Unreadable(str(error)) from error
