"""Model structs as bytes, for queues and the store: a version octet, then MessagePack.

Structs on the wire are arrays. A reader gives missing trailing fields their defaults and ignores surplus ones, so two
successive versions read each other during a rolling deploy. Any other change needs a new version octet and a reader for
both.
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
    """The body of an item of the queue `outcomes`: a pack of outcomes."""
    return _VERSION + _encoder.encode(list(outcomes))


def decode_notification(body: bytes) -> Notification:
    """The notification in a body that `encode` wrote. Raises Unreadable."""
    return _decode(_notifications, body)


def decode_delivery(body: bytes) -> Delivery:
    """The delivery in a body that `encode` wrote. Raises Unreadable."""
    return _decode(_deliveries, body)


def decode_outcomes(body: bytes) -> list[Outcome]:
    """The outcomes in a body that `encode_outcomes` wrote. Raises Unreadable."""
    return _decode(_outcomes, body)


def _decode(decoder: msgspec.msgpack.Decoder[T], body: bytes) -> T:
    if body[:1] != _VERSION:
        raise Unreadable(f"unknown version octet {body[:1]!r}")
    try:
        return decoder.decode(memoryview(body)[1:])
    except msgspec.MsgspecError as error:
        raise Unreadable(str(error)) from error
