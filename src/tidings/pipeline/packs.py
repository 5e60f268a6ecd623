"""Outcomes travel in packs: one queue item for many facts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tidings.model.ids import bucket_of
from tidings.model.outcome import Outcome
from tidings.model.topics import OUTCOMES
from tidings.model.vocabulary import State
from tidings.model.wire import decode_outcomes, encode_outcomes
from tidings.ports.queue import Item

PACK = 200
LARGEST_PACK = 512 * 1024
"""Bytes; a pack of large notifications is split, so that it stays below what a broker takes."""

_MAY_HAVE_BEEN_TAKEN = frozenset({State.SENT, State.DELIVERED, State.UNCERTAIN})


def pack(outcomes: Sequence[Outcome]) -> list[Item]:
    """The facts as items for `outcomes`."""
    return [item for start in range(0, len(outcomes), PACK) for item in _items(outcomes[start : start + PACK])]


def of_what_may_have_been_taken(items: Sequence[Item]) -> list[Item]:
    """Of packs: the facts that something was, or may have been, taken by a provider. No decision about what follows."""
    return pack(
        [
            outcome
            for item in items
            if item.topic == OUTCOMES
            for outcome in decode_outcomes(item.body)
            if outcome.wait is None and outcome.state in _MAY_HAVE_BEEN_TAKEN
        ]
    )


def _key(first: Outcome) -> str:
    """By the bucket of the first fact's user: a tenant's packs spread, so that all recorders work for a large one.

    Facts need no order among themselves, so any key would do; this one is the same each time.
    """
    return f"{first.tenant}\x00{bucket_of(first.id)}"


def _items(outcomes: Sequence[Outcome]) -> Iterator[Item]:
    body = encode_outcomes(outcomes)
    if len(body) <= LARGEST_PACK or len(outcomes) == 1:
        yield Item(OUTCOMES, _key(outcomes[0]), body)
        return
    half = len(outcomes) // 2
    yield from _items(outcomes[:half])
    yield from _items(outcomes[half:])
