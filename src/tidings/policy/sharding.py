"""The map from buckets to shards. It is data, so shards can be added and buckets moved while the system runs."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from itertools import pairwise

from msgspec import Struct

from tidings.model.ids import BUCKETS


class BucketRange(Struct, frozen=True, array_like=True):
    """Says that the buckets `start` (inclusive) to `end` (exclusive) live on `shard`."""

    start: int
    end: int
    shard: str


class BucketMove(Struct, frozen=True, array_like=True):
    """Says that the buckets `start` (inclusive) to `end` (exclusive) go from `source` to `target`."""

    start: int
    end: int
    source: str
    target: str


class ShardMap(Struct, frozen=True):
    """The shard of every bucket. `ranges` are in order, without gaps; a later map has a higher `version`."""

    version: int
    ranges: tuple[BucketRange, ...]

    def __post_init__(self) -> None:
        """Refuse a map that leaves a bucket without a shard, or with two."""
        reached = 0
        for part in self.ranges:
            if part.start != reached or part.end <= part.start or not part.shard:
                raise ValueError(f"the ranges do not go on from bucket {reached}: {part}")
            reached = part.end
        if reached != BUCKETS:
            raise ValueError(f"the ranges end at bucket {reached}, not at {BUCKETS}")

    @property
    def shards(self) -> tuple[str, ...]:
        """The names of the shards, by their first bucket."""
        return tuple(dict.fromkeys(part.shard for part in self.ranges))


def single(shard: str) -> ShardMap:
    """The map of an installation with one shard."""
    return ShardMap(1, (BucketRange(0, BUCKETS, shard),))


def even(shards: Iterable[str]) -> ShardMap:
    """The map that splits the buckets evenly among the shards, in order. Raises ValueError without a shard."""
    names = list(shards)
    if not names:
        raise ValueError("there must be at least one shard")
    edges = [BUCKETS * number // len(names) for number in range(len(names) + 1)]
    return ShardMap(1, tuple(BucketRange(edges[at], edges[at + 1], name) for at, name in enumerate(names)))


def shard_of(shards: ShardMap, bucket: int) -> str:
    """The shard of a bucket (0..4095). Raises ValueError for any other number."""
    if not 0 <= bucket < BUCKETS:
        raise ValueError(f"there is no bucket {bucket}")
    ranges = shards.ranges
    return ranges[bisect_right(ranges, bucket, key=_start) - 1].shard


def moved(shards: ShardMap, start: int, end: int, target: str) -> ShardMap:
    """The next version of the map, with the buckets `start` (inclusive) to `end` (exclusive) on `target`."""
    if not 0 <= start < end <= BUCKETS:
        raise ValueError(f"there are no buckets {start} to {end}")
    cut = sorted({0, start, end, BUCKETS, *(part.start for part in shards.ranges)})
    parts: list[BucketRange] = []
    for low, high in pairwise(cut):
        shard = target if start <= low < end else shard_of(shards, low)
        if parts and parts[-1].shard == shard:
            parts[-1] = BucketRange(parts[-1].start, high, shard)
        else:
            parts.append(BucketRange(low, high, shard))
    return ShardMap(shards.version + 1, tuple(parts))


def moves(old: ShardMap, new: ShardMap) -> tuple[BucketMove, ...]:
    """The buckets that must move to get from the map `old` to `new`, in order."""
    cut = sorted({part.start for part in (*old.ranges, *new.ranges)} | {BUCKETS})
    needed: list[BucketMove] = []
    for low, high in pairwise(cut):
        source, target = shard_of(old, low), shard_of(new, low)
        if source == target:
            continue
        last = needed[-1] if needed else None
        if last is not None and (last.end, last.source, last.target) == (low, source, target):
            needed[-1] = BucketMove(last.start, high, source, target)
        else:
            needed.append(BucketMove(low, high, source, target))
    return tuple(needed)


def _start(part: BucketRange) -> int:
    return part.start
