"""Items as the next version may write them: with one more field in every struct."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Any

import msgspec
from msgspec import Struct

from tidings.model import topics
from tidings.model.wire import decode_delivery, decode_notification, decode_outcomes
from tidings.ports.queue import Item

DECODERS: Mapping[str, Callable[[bytes], Any]] = {
    topics.ROUTE: decode_notification,
    topics.DELIVER: decode_delivery,
    topics.RECORD: decode_outcomes,
}
"""How each stage decodes the items that it reads."""


def newer_items(items: Sequence[Item]) -> list[Item]:
    """The items as a process of the next version would put them."""
    return [
        msgspec.structs.replace(item, body=newer_body(DECODERS[topics.reader_of(item.topic)](item.body)))
        for item in items
    ]


def newer_body(value: Any) -> bytes:
    """The bytes of a decoded item as the next version may write them. The version octet stays."""
    return b"\x01" + msgspec.msgpack.encode(_newer(value))


def _newer(value: Any) -> Any:
    if isinstance(value, Struct):
        fields = {name: _newer(getattr(value, name)) for name in value.__struct_fields__}
        if value.__struct_config__.array_like:
            return [*fields.values(), {"novelty": ["of", "the", "next", "version"]}]
        return fields | {"novelty": 1}
    if isinstance(value, list | tuple):
        return [_newer(each) for each in value]
    return value.value if isinstance(value, Enum) else value
