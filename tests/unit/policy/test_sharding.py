from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidings.model.ids import BUCKETS
from tidings.policy.sharding import BucketMove, BucketRange, ShardMap, even, moved, moves, shard_of, single

SHARDS = st.sampled_from(["a", "b", "c", "d"])
EDGES = st.tuples(st.integers(0, BUCKETS), st.integers(0, BUCKETS)).filter(lambda edges: edges[0] < edges[1])
CHANGES = st.lists(st.tuples(EDGES, SHARDS), max_size=6)


def changed(changes: list[tuple[tuple[int, int], str]]) -> ShardMap:
    shards = even(["a", "b", "c"])
    for (start, end), target in changes:
        shards = moved(shards, start, end, target)
    return shards


@given(CHANGES, EDGES, SHARDS)
def test_a_move_moves_these_buckets_and_no_others(
    changes: list[tuple[tuple[int, int], str]], edges: tuple[int, int], target: str
) -> None:
    before = changed(changes)
    after = moved(before, *edges, target)
    assert after.version == before.version + 1
    for bucket in range(0, BUCKETS, 7):
        inside = edges[0] <= bucket < edges[1]
        assert shard_of(after, bucket) == (target if inside else shard_of(before, bucket))


@given(CHANGES, CHANGES)
def test_moves_say_what_differs(
    some: list[tuple[tuple[int, int], str]], others: list[tuple[tuple[int, int], str]]
) -> None:
    old, new = changed(some), changed(others)
    carried = old
    for move in moves(old, new):
        assert move.source != move.target
        assert {shard_of(old, bucket) for bucket in (move.start, move.end - 1)} == {move.source}
        carried = moved(carried, move.start, move.end, move.target)
    assert carried.ranges == new.ranges
    assert moves(old, old) == ()


def test_neighbours_that_go_the_same_way_move_together() -> None:
    cut = (BucketRange(0, 10, "c"), BucketRange(10, 20, "c"), BucketRange(20, 30, "b"), BucketRange(30, BUCKETS, "b"))
    assert moves(single("a"), ShardMap(2, cut)) == (BucketMove(0, 20, "a", "c"), BucketMove(20, BUCKETS, "a", "b"))


def test_one_shard_has_everything_and_even_shares_are_even() -> None:
    assert {shard_of(single("only"), bucket) for bucket in range(BUCKETS)} == {"only"}
    shares = [part.end - part.start for part in even(["a", "b", "c"]).ranges]
    assert sum(shares) == BUCKETS
    assert max(shares) - min(shares) <= 1
    assert even(["a", "b", "c"]).shards == ("a", "b", "c")
    assert even(["a", "b"]) == ShardMap(1, (BucketRange(0, BUCKETS // 2, "a"), BucketRange(BUCKETS // 2, BUCKETS, "b")))
    assert all(isinstance(part.end, int) for part in even(["a", "b", "c"]).ranges)
    assert single("only") == even(["only"])


@pytest.mark.parametrize(
    "ranges",
    [
        (),
        (BucketRange(0, BUCKETS - 1, "a"),),
        (BucketRange(0, 10, "a"), BucketRange(11, BUCKETS, "b")),
        (BucketRange(0, 11, "a"), BucketRange(10, BUCKETS, "b")),
        (BucketRange(0, 10, "a"), BucketRange(10, 10, "b"), BucketRange(10, BUCKETS, "a")),
        (BucketRange(0, BUCKETS, ""),),
        (BucketRange(0, BUCKETS + 1, "a"),),
    ],
)
def test_a_map_with_a_gap_or_an_overlap_is_refused(ranges: tuple[BucketRange, ...]) -> None:
    with pytest.raises(ValueError, match=r"bucket|go on"):
        ShardMap(1, ranges)


def test_impossible_buckets_are_refused() -> None:
    for bucket in (-1, BUCKETS):
        with pytest.raises(ValueError, match="no bucket"):
            shard_of(single("a"), bucket)
    with pytest.raises(ValueError, match="no buckets"):
        moved(single("a"), 5, 5, "b")
    with pytest.raises(ValueError, match="at least one"):
        even([])
