"""An item of the next version, with one more field in every struct, is read as if the new fields were not there."""

from __future__ import annotations

from enum import Enum
from typing import Any

import msgspec
import pytest
from msgspec import Struct

from support import wire as samples
from tidings.model import topics
from tidings.model.errors import Unreadable
from tidings.model.wire import decode_delivery, decode_notification, decode_outcomes

DECODERS: dict[str, Any] = {
    topics.ROUTE: decode_notification,
    topics.DELIVER: decode_delivery,
    topics.RECORD: decode_outcomes,
}
LITERAL = msgspec.structs.replace(samples.FULL, template=None, content=samples.CONTENT, data=b"{}")
VALUES: dict[str, list[Any]] = {
    topics.ROUTE: [samples.BRIEF, samples.FULL, LITERAL],
    topics.DELIVER: [samples.PLAIN, samples.TRIED, msgspec.structs.replace(samples.PLAIN, content=samples.CONTENT)],
    topics.RECORD: [samples.FACTS, [msgspec.structs.replace(samples.FACTS[0], notification=LITERAL)]],
}


def newer(value: Any) -> Any:
    """The value as the next version could write it: each struct has one more field."""
    if isinstance(value, Struct):
        fields = {name: newer(getattr(value, name)) for name in value.__struct_fields__}
        if value.__struct_config__.array_like:
            return [*fields.values(), {"novelty": ["of", "the", "next", "version"]}]
        return fields | {"novelty": 1}
    if isinstance(value, list | tuple):
        return [newer(each) for each in value]
    return value.value if isinstance(value, Enum) else value


@pytest.mark.parametrize("topic", sorted(topics.subscriptions()))
def test_a_field_of_the_next_version_is_ignored(topic: str) -> None:
    reader = topics.reader_of(topic)
    for value in VALUES[reader]:
        body = b"\x01" + msgspec.msgpack.encode(newer(value))
        read = DECODERS[reader](body)
        assert (list(read) if isinstance(read, list) else read) == (list(value) if isinstance(value, list) else value)


@pytest.mark.parametrize("reader", sorted(DECODERS))
def test_another_version_octet_is_refused_as_a_whole(reader: str) -> None:
    body = b"\x02" + msgspec.msgpack.encode(newer(VALUES[reader][0]))
    with pytest.raises(Unreadable, match="version octet"):
        DECODERS[reader](body)
