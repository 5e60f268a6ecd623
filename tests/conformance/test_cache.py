"""The promises of ports/cache.py, on every adapter."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tidings.backends.memory.cache import MemoryCache
from tidings.backends.memory.clock import VirtualClock
from tidings.ports.cache import Cache


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture(params=["memory"])
async def cache(clock: VirtualClock) -> AsyncIterator[Cache]:
    opened = MemoryCache(clock)
    yield opened
    await opened.close()


async def test_a_value_is_kept_until_it_expires(cache: Cache, clock: VirtualClock) -> None:
    await cache.set("key", b"\x00value\xff", 2.0)
    assert await cache.get("key") == b"\x00value\xff"
    await clock.advance(1.999)
    assert await cache.get("key") == b"\x00value\xff"
    await clock.advance(0.001)
    assert await cache.get("key") is None


async def test_setting_again_replaces_value_and_time(cache: Cache, clock: VirtualClock) -> None:
    await cache.set("key", b"old", 1.0)
    await cache.set("key", b"new", 10.0)
    await clock.advance(5)
    assert await cache.get("key") == b"new"


async def test_what_is_deleted_or_unknown_is_none(cache: Cache) -> None:
    await cache.set("key", b"value", 10.0)
    await cache.delete("key")
    await cache.delete("never there")
    assert await cache.get("key") is None
    assert await cache.get("other") is None


async def test_a_value_without_time_to_live_is_not_kept(cache: Cache) -> None:
    await cache.set("key", b"old", 10.0)
    await cache.set("key", b"value", 0.0)
    assert await cache.get("key") is None


class TestBounds:
    """A promise of the cache in the process only: its size is bounded."""

    async def test_the_longest_unused_goes_first(self, clock: VirtualClock) -> None:
        cache = MemoryCache(clock, max_entries=3)
        for key in "abc":
            await cache.set(key, key.encode(), 60.0)
        await cache.get("a")
        await cache.set("d", b"d", 60.0)
        assert [await cache.get(key) for key in "abcd"] == [b"a", None, b"c", b"d"]

    async def test_bytes_are_bounded(self, clock: VirtualClock) -> None:
        cache = MemoryCache(clock, max_bytes=1000)
        for number in range(100):
            await cache.set(f"key-{number:03}", b"x" * 93, 60.0)
        kept = [number for number in range(100) if await cache.get(f"key-{number:03}") is not None]
        assert kept == list(range(90, 100))
        await cache.set("huge", b"x" * 2000, 60.0)
        assert await cache.get("huge") is None
        assert await cache.get("key-099") is not None
