"""Packs: queue items that hold many facts each."""

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

MOST_FACTS = 200
LARGEST_PACK_BYTES = 512 * 1024
"""A larger pack is split, so that it stays below a broker's limit."""

_TEXTS = ("tenant", "reason", "provider", "reference", "detail")
_MOST_CHARACTERS = 4_000
_log = structlog.get_logger("tidings.packs")

_MAY_HAVE_BEEN_TAKEN = frozenset({State.SENT, State.DELIVERED, State.UNCERTAIN})


def pack(outcomes: Sequence[Outcome]) -> list[Item]:
    """Items for the queue `outcomes` that hold these facts."""
    return [
        item for start in range(0, len(outcomes), MOST_FACTS) for item in _items(outcomes[start : start + MOST_FACTS])
    ]


def of_what_may_have_been_taken(items: Sequence[Item]) -> list[Item]:
    """New packs with those facts of `items` that say that a provider took, or may have taken, a delivery.

    Facts with a wait are left out: they decide what follows, which is up to the next claim.
    """
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
    """The key of a pack: the tenant and the bucket of the first fact's user, so that a large tenant uses all recorders.

    Facts need no order, so any key would do. This one is the same each time.
    """
    return f"{fit(first.tenant, _MOST_CHARACTERS)}\x00{bucket_of(first.id)}"


def _items(outcomes: Sequence[Outcome]) -> Iterator[Item]:
    body = _encoded(outcomes)
    if body is None:
        body = encode_outcomes([_plain(outcomes[0])]) if len(outcomes) == 1 else b""
    if body and (len(body) <= LARGEST_PACK_BYTES or len(outcomes) == 1):
        yield Item(OUTCOMES, _key(outcomes[0]), body)
        return
    half = len(outcomes) // 2
    yield from _items(outcomes[:half])
    yield from _items(outcomes[half:])


def _encoded(outcomes: Sequence[Outcome]) -> bytes | None:
    """The encoded pack, or None if one of its facts cannot be encoded."""
    try:
        return encode_outcomes(outcomes)
    except Exception as error:
        if len(outcomes) == 1:
            _log.error("a fact cannot be written as it is", id=str(outcomes[0].id), kind=type(error).__name__)
        return None


def _plain(outcome: Outcome) -> Outcome:
    """The fact with its texts made encodable and cut; if that is not enough, without the rest."""
    texts = {name: fit(getattr(outcome, name), _MOST_CHARACTERS) for name in _TEXTS}
    plain = msgspec.structs.replace(outcome, **texts)
    if outcome.address is not None:
        address = msgspec.structs.replace(outcome.address, value=fit(outcome.address.value, _MOST_CHARACTERS))
        plain = msgspec.structs.replace(plain, address=address)
    if _encoded([plain]) is not None:
        return plain
    return Outcome(
        outcome.id, plain.tenant, outcome.at, outcome.state, outcome.attempt, outcome.step, plain.reason, plain.provider
    )
