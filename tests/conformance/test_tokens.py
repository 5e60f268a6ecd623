"""Token buckets: the promises of ports/tokens.py, on every adapter."""

from __future__ import annotations

import asyncio

import pytest

from support import unique
from tidings.backends.memory.clock import VirtualClock
from tidings.backends.memory.tokens import MemoryTokens
from tidings.model.tenant import Rate
from tidings.ports.tokens import Drawn, Tokens

TEN = Rate(10, 20)


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def tokens(clock: VirtualClock) -> Tokens:
    return MemoryTokens(clock)


@pytest.fixture
def bucket() -> str:
    return unique("bucket")


async def test_a_burst_and_then_the_rate(tokens: Tokens, clock: VirtualClock, bucket: str) -> None:
    granted = [(await tokens.draw(bucket, TEN, 1, 1)).tokens for _ in range(25)]
    assert granted == 20 * [1] + 5 * [0]
    await clock.advance(1)
    assert sum([(await tokens.draw(bucket, TEN, 1, 1)).tokens for _ in range(25)]) == 10


async def test_a_refusal_says_when(tokens: Tokens, clock: VirtualClock, bucket: str) -> None:
    assert await tokens.draw(bucket, TEN, 20, 20) == Drawn(20, 0, 0, 2)
    refused = await tokens.draw(bucket, TEN, 5, 5)
    assert (refused.tokens, refused.wait_s) == (0, 0.5)
    await clock.advance(refused.wait_s - 0.001)
    assert not (await tokens.draw(bucket, TEN, 5, 5)).tokens
    await clock.advance(0.001)
    assert (await tokens.draw(bucket, TEN, 5, 5)).tokens == 5


async def test_a_draw_gets_what_the_bucket_has_between_least_and_most(tokens: Tokens, bucket: str) -> None:
    assert (await tokens.draw(bucket, TEN, 1, 15)).tokens == 15
    assert (await tokens.draw(bucket, TEN, 1, 15)).tokens == 5
    assert (await tokens.draw(bucket, TEN, 1, 15)).tokens == 0


async def test_a_draw_larger_than_the_bucket_is_granted_by_a_full_one_and_owed(
    tokens: Tokens, clock: VirtualClock, bucket: str
) -> None:
    assert (await tokens.draw(bucket, TEN, 1, 1)).tokens == 1
    refused = await tokens.draw(bucket, TEN, 100, 100)
    assert (refused.tokens, refused.wait_s) == (0, 0.1)
    await clock.advance(0.1)
    assert await tokens.draw(bucket, TEN, 100, 100) == Drawn(100, -80, 0, 10)
    await clock.advance(8)
    assert not (await tokens.draw(bucket, TEN, 1, 1)).tokens
    await clock.advance(0.1)
    assert (await tokens.draw(bucket, TEN, 1, 1)).tokens == 1


async def test_buckets_do_not_touch_each_other(tokens: Tokens) -> None:
    for name in (unique("a"), unique("b")):
        assert (await tokens.draw(name, TEN, 20, 20)).tokens == 20


async def test_another_rate_begins_anew(tokens: Tokens, bucket: str) -> None:
    assert (await tokens.draw(bucket, TEN, 20, 20)).tokens == 20
    assert (await tokens.draw(bucket, Rate(1, 5), 5, 5)).tokens == 5


async def test_many_at_once_get_no_more_than_there_is(tokens: Tokens, bucket: str) -> None:
    drawn = await asyncio.gather(*(tokens.draw(bucket, TEN, 3, 3) for _ in range(20)))
    assert sum(one.tokens for one in drawn) == 18
