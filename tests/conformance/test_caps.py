"""The promises of ports/caps.py, on every adapter."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from uuid import UUID, uuid4

import asyncpg
import pytest

from support import eventually, unique
from support.stores import NOW
from tidings.backends.postgres.store import PostgresStore
from tidings.model.user import Cap
from tidings.policy.caps import Count
from tidings.ports.store import Store

THREE = (Cap(3, 60),)
MINUTE = 60_000


def scope() -> bytes:
    return uuid4().bytes


def requests(where: bytes, ids: Sequence[UUID], caps: tuple[Cap, ...] = THREE) -> list[list[Count]]:
    return [[Count(where, id, caps)] for id in ids]


def ids(count: int) -> list[UUID]:
    return [uuid4() for _ in range(count)]


async def test_no_more_pass_than_the_cap_permits(store: Store) -> None:
    where = scope()
    verdicts = await store.caps.take(requests(where, ids(5)), NOW)
    assert [verdict is None for verdict in verdicts] == [True, True, True, False, False]
    over = verdicts[3]
    assert over is not None
    assert (over.cap, over.due) == (THREE[0], NOW + MINUTE)
    assert (await store.caps.take(requests(where, ids(1)), NOW + MINUTE - 1))[0] is not None
    assert (await store.caps.take(requests(where, ids(1)), NOW + MINUTE))[0] is None


async def test_an_id_that_is_taken_again_counts_once_from_then_on(store: Store) -> None:
    where, [one, *others] = scope(), ids(5)
    for later in (0, 1000, 3 * MINUTE):
        assert await store.caps.take(requests(where, [one, one]), NOW + later) == [None, None]
    verdicts = await store.caps.take(requests(where, others[:3]), NOW + 3 * MINUTE + 1)
    assert [verdict is None for verdict in verdicts] == [True, True, False]
    # It counts as of the last time it was taken, and after its window it needs room again.
    assert await store.caps.take(requests(where, others[3:]), NOW + 4 * MINUTE) == [None]
    [verdict] = await store.caps.take(requests(where, [one]), NOW + 4 * MINUTE)
    assert verdict is not None
    assert verdict.due == NOW + 4 * MINUTE + 1


async def test_a_request_counts_everywhere_or_nowhere(store: Store) -> None:
    full, empty = scope(), scope()
    await store.caps.take(requests(full, ids(3)), NOW)
    [refused] = await store.caps.take([[Count(empty, uuid4(), THREE), Count(full, uuid4(), THREE)]], NOW)
    assert refused is not None
    assert refused.place == 1
    assert await store.caps.take(requests(empty, ids(3)), NOW) == [None, None, None]


async def test_scopes_do_not_touch_each_other(store: Store) -> None:
    for where in (scope(), scope()):
        assert await store.caps.take(requests(where, ids(3)), NOW) == [None, None, None]


async def test_no_requests_give_no_verdicts(store: Store) -> None:
    assert await store.caps.take([], NOW) == []
    assert await store.caps.take([[]], NOW) == [None]


FIVE = (Cap(5, 60),)


@pytest.mark.parametrize("known", [False, True], ids=["new scopes", "known scopes"])
async def test_concurrent_takers_never_let_more_pass_together(store: Store, known: bool) -> None:
    places = [scope() for _ in range(6)]
    passed: dict[bytes, int] = dict.fromkeys(places, 0)
    if known:
        await store.caps.take([[Count(where, uuid4(), FIVE) for where in places]], NOW)
        passed = dict.fromkeys(places, 1)
    batches = []
    for turn in range(12):
        # Each in another order: callers that lock in the order of their batch would deadlock.
        order = places[turn % 6 :] + places[: turn % 6]
        batches.append([[Count(where, uuid4(), FIVE) for where in order[:3]] for _ in range(4)])
    answers = await asyncio.gather(*(store.caps.take(batch, NOW) for batch in batches))
    for batch, verdicts in zip(batches, answers, strict=True):
        for counts, verdict in zip(batch, verdicts, strict=True):
            if verdict is None:
                for count in counts:
                    passed[count.scope] += 1
    assert max(passed.values()) == 5
    for where, taken in passed.items():
        room = await store.caps.take(requests(where, ids(5), FIVE), NOW)
        assert sum(verdict is None for verdict in room) == 5 - taken


async def test_scopes_without_counts_are_swept(store: Store) -> None:
    short, long = scope(), scope()
    await store.caps.take(requests(short, ids(2)), NOW)
    await store.caps.take(requests(long, ids(2), (Cap(2, 86_400),)), NOW)
    assert await store.caps.prune(NOW + MINUTE - 1) == 0
    assert await store.caps.prune(NOW + MINUTE) == 1
    assert (await store.caps.take(requests(long, ids(1), (Cap(2, 86_400),)), NOW + MINUTE))[0] is not None
    assert await store.caps.prune(NOW + 86_400_000) == 1
    assert await store.caps.prune(NOW + 86_400_000) == 0


async def test_a_taker_that_dies_has_taken_nothing(postgres_dsn: str) -> None:
    """Of two processes, one dies between locking and commit while the other waits for the same scope."""
    where = scope()
    name = unique("taker").replace("-", "_")
    async with contextlib.AsyncExitStack() as stack:
        living = await PostgresStore.open(postgres_dsn)
        stack.push_async_callback(living.close)
        assert await living.caps.take(requests(where, ids(2)), NOW) == [None, None]
        dying = await asyncpg.connect(postgres_dsn, server_settings={"application_name": name})
        watcher = await asyncpg.connect(postgres_dsn)
        stack.push_async_callback(watcher.close)
        await dying.execute("BEGIN")
        await dying.execute("UPDATE cap_count SET passed = passed || decode(repeat('00', 24), 'hex')")
        waiting = asyncio.create_task(living.caps.take(requests(where, ids(2)), NOW))

        async def blocked() -> bool:
            return bool(await watcher.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"))

        await eventually(blocked)
        assert not waiting.done()
        await watcher.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1", name
        )
        verdicts = await waiting
        dying.terminate()
    assert [verdict is None for verdict in verdicts] == [True, False]
