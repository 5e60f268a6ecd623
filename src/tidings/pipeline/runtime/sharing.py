"""Sharing: items within a tenant's share go into their lane, the rest goes into the surplus lane beside it."""

from __future__ import annotations

from collections.abc import Container, Sequence

import msgspec

from tidings.model import topics
from tidings.model.vocabulary import Priority
from tidings.pipeline.runtime.reader import REPEATED
from tidings.policy.shares import Shares
from tidings.ports.queue import Item


def shared_out(
    items: Sequence[Item], shares: Shares, now: int, *, owing: Container[Priority] = frozenset()
) -> list[Item]:
    """The items in order, those beyond a tenant's share with the topic of the surplus lane.

    `now`: milliseconds of `Clock.elapsed`. `owing`: the priorities in which a tenant owes what exceeds its share.
    Copies always go to the surplus, to be claimed after their originals, wherever those are. Items of other topics, and
    those that are surplus already, keep their topics.
    """
    if not shares.exist:
        return list(items)
    lanes = [topics.LANES.get(item.topic) for item in items]
    asked: dict[tuple[str, Priority], int] = {}
    for item, lane in zip(items, lanes, strict=True):
        if lane is not None and not lane.is_surplus and REPEATED not in item.headers:
            key = tenant_of(item), lane.priority
            asked[key] = asked.get(key, 0) + 1
    within = {
        (tenant, priority): shares.take(tenant, priority, count, now, owing=priority in owing)
        for (tenant, priority), count in asked.items()
    }
    placed: list[Item] = []
    for item, lane in zip(items, lanes, strict=True):
        if lane is None or lane.is_surplus:
            placed.append(item)
            continue
        key = tenant_of(item), lane.priority
        if REPEATED not in item.headers and within[key]:
            within[key] -= 1
            placed.append(item)
        else:
            placed.append(as_surplus(item))
    return placed


def as_surplus(item: Item) -> Item:
    """The item in the surplus lane of its priority."""
    return msgspec.structs.replace(item, topic=topics.of_surplus(item.topic))


def tenant_of(item: Item) -> str:
    """The tenant, from the item's key."""
    return item.key.partition("/")[0]
