"""Outcomes travel in packs: one queue item for many facts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec
import structlog

from tidings.model.ids import bucket_of
from tidings.model.outcome import Outcome
from tidings.model.texts import fit
from tidings.model.topics import OUTCOMES
from tidings.model.vocabulary import State
from tidings.model.wire import decode_outcomes, encode_outcomes
from tidings.ports.queue import Item

PACK = 200
LARGEST_PACK = 512 * 1024
"""Bytes; a pack of large notifications is split, so that it stays below what a broker takes."""

_TEXTS = ("tenant", "reason", "provider", "reference", "detail")
_MOST_TEXT = 4_000
_log = structlog.get_logger("tidings.packs")

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
    return f"{fit(first.tenant, _MOST_TEXT)}\x00{bucket_of(first.id)}"


def _items(outcomes: Sequence[Outcome]) -> Iterator[Item]:
    body = _encoded(outcomes)
    if body is None:
        body = encode_outcomes([_plain(outcomes[0])]) if len(outcomes) == 1 else b""
    if body and (len(body) <= LARGEST_PACK or len(outcomes) == 1):
        yield Item(OUTCOMES, _key(outcomes[0]), body)
        return
    half = len(outcomes) // 2
    yield from _items(outcomes[:half])
    yield from _items(outcomes[half:])


def _encoded(outcomes: Sequence[Outcome]) -> bytes | None:
    """The pack, or None when there is something in it that cannot be written."""
    try:
        return encode_outcomes(outcomes)
    except Exception as error:
        if len(outcomes) == 1:
            _log.error("a fact cannot be written as it is", id=str(outcomes[0].id), kind=type(error).__name__)
        return None


def _plain(outcome: Outcome) -> Outcome:
    """The fact with texts that can be written; where that is not enough, the bare fact. So it spoils no other."""
    texts = {name: fit(getattr(outcome, name), _MOST_TEXT) for name in _TEXTS}
    plain = msgspec.structs.replace(outcome, **texts)
    if outcome.address is not None:
        address = msgspec.structs.replace(outcome.address, value=fit(outcome.address.value, _MOST_TEXT))
        plain = msgspec.structs.replace(plain, address=address)
    if _encoded([plain]) is not None:
        return plain
    return Outcome(
        outcome.id, plain.tenant, outcome.at, outcome.state, outcome.attempt, outcome.step, plain.reason, plain.provider
    )
