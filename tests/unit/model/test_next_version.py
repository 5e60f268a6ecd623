"""An item of the next version, with one more field in every struct, is read as if the new fields were not there."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from support import wire as samples
from tidings.model import topics
from tidings.model.errors import Unreadable
from tidings.simulation.versions import DECODERS, newer_body

LITERAL = msgspec.structs.replace(samples.FULL, template=None, content=samples.CONTENT, data=b"{}")
VALUES: dict[str, list[Any]] = {
    topics.ROUTE: [samples.BRIEF, samples.FULL, LITERAL],
    topics.DELIVER: [samples.PLAIN, samples.TRIED, msgspec.structs.replace(samples.PLAIN, content=samples.CONTENT)],
    topics.RECORD: [samples.FACTS, [msgspec.structs.replace(samples.FACTS[0], notification=LITERAL)]],
}


@pytest.mark.parametrize("topic", sorted(topics.subscriptions()))
def test_a_field_of_the_next_version_is_ignored(topic: str) -> None:
    reader = topics.reader_of(topic)
    for value in VALUES[reader]:
        body = newer_body(value)
        read = DECODERS[reader](body)
        assert (list(read) if isinstance(read, list) else read) == (list(value) if isinstance(value, list) else value)


@pytest.mark.parametrize("reader", sorted(DECODERS))
def test_another_version_octet_is_refused_as_a_whole(reader: str) -> None:
    body = b"\x02" + newer_body(VALUES[reader][0])[1:]
    with pytest.raises(Unreadable, match="version octet"):
        DECODERS[reader](body)
