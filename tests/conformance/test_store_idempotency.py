"""The promises of ports/idempotency.py, on every adapter."""

from __future__ import annotations

import asyncio
from uuid import UUID

import pytest
from msgspec.structs import replace

from support import unique
from support.stores import NOW, notification, turn
from tidings.policy.idempotency import KEPT_MS
from tidings.ports.idempotency import Reservation
from tidings.ports.store import Store

BODY = b"\x01" * 32
OTHER_BODY = b"\x02" * 32


async def reserved(store: Store, at: int, tenant: str, key: str, body: bytes, seed: UUID) -> Reservation:
    """Reserve the key at this instant of the store's clock. Drops `reserved_at`, which tests do not compare."""
    await turn(store, at)
    return replace(await store.idempotency.reserve(tenant, key, body, seed, 30.0), reserved_at=0)


async def test_the_first_caller_owns_the_key(store: Store, tenant: str) -> None:
    seed = notification(tenant).id
    assert await reserved(store, NOW, tenant, "k", BODY, seed) == Reservation(True, BODY, seed)


async def test_a_second_caller_learns_that_the_key_is_in_flight(store: Store, tenant: str) -> None:
    await reserved(store, NOW, tenant, "k", BODY, notification(tenant).id)
    second = await reserved(store, NOW + 1, tenant, "k", OTHER_BODY, notification(tenant).id)
    assert (second.fresh, second.answer, second.fingerprint) == (False, None, BODY)


async def test_the_answer_is_replayed(store: Store, tenant: str) -> None:
    await reserved(store, NOW, tenant, "k", BODY, notification(tenant).id)
    await store.idempotency.complete(tenant, "k", b'{"id":"\xc3\xa9"}')
    for later in (1, 40_000):
        again = await reserved(store, NOW + later, tenant, "k", BODY, notification(tenant).id)
        assert (again.fresh, again.answer, again.fingerprint) == (False, b'{"id":"\xc3\xa9"}', BODY)


async def test_an_abandoned_key_is_retaken_with_its_ids(store: Store, tenant: str) -> None:
    seed = notification(tenant).id
    await reserved(store, NOW, tenant, "k", BODY, seed)
    again = await reserved(store, NOW + 31_000, tenant, "k", BODY, notification(tenant).id)
    assert again == Reservation(True, BODY, seed, retaken=True)
    third = await reserved(store, NOW + 32_000, tenant, "k", BODY, notification(tenant).id)
    assert (third.fresh, third.answer) == (False, None)


async def test_a_forgotten_key_is_free(store: Store, tenant: str) -> None:
    await reserved(store, NOW, tenant, "k", BODY, notification(tenant).id)
    await store.idempotency.forget(tenant, "k", NOW)
    seed = notification(tenant).id
    assert await reserved(store, NOW, tenant, "k", OTHER_BODY, seed) == Reservation(True, OTHER_BODY, seed)
    await store.idempotency.forget(tenant, "never there", NOW)


async def test_only_its_owner_frees_a_key(store: Store, tenant: str) -> None:
    await reserved(store, NOW, tenant, "k", BODY, notification(tenant).id)
    assert (await reserved(store, NOW + 30_000, tenant, "k", BODY, notification(tenant).id)).retaken
    await store.idempotency.forget(tenant, "k", NOW)
    assert not (await reserved(store, NOW + 30_001, tenant, "k", BODY, notification(tenant).id)).fresh
    await store.idempotency.complete(tenant, "k", b"done")
    await store.idempotency.forget(tenant, "k", NOW + 30_000)
    kept = await reserved(store, NOW + 60_000, tenant, "k", BODY, notification(tenant).id)
    assert kept.answer == b"done"


async def test_an_abandoned_reservation_is_retaken_at_once(store: Store, tenant: str) -> None:
    seed = notification(tenant).id
    await reserved(store, NOW, tenant, "k", BODY, seed)
    await store.idempotency.abandon(tenant, "k", NOW - 1)
    assert not (await reserved(store, NOW + 1, tenant, "k", BODY, notification(tenant).id)).fresh
    await store.idempotency.abandon(tenant, "k", NOW)
    again = await reserved(store, NOW + 1, tenant, "k", BODY, notification(tenant).id)
    assert again == Reservation(True, BODY, seed, retaken=True)
    await store.idempotency.complete(tenant, "k", b"done")
    await store.idempotency.abandon(tenant, "k", NOW + 1)
    assert (await reserved(store, NOW + 2, tenant, "k", BODY, seed)).answer == b"done"


@pytest.mark.parametrize("answered", [True, False])
@pytest.mark.parametrize("body", [BODY, OTHER_BODY])
async def test_a_key_older_than_a_day_counts_as_never_used(
    store: Store, tenant: str, answered: bool, body: bytes
) -> None:
    await reserved(store, NOW, tenant, "k", BODY, notification(tenant).id)
    if answered:
        await store.idempotency.complete(tenant, "k", b"done")
        almost = await reserved(store, NOW + KEPT_MS - 1, tenant, "k", body, notification(tenant).id)
        assert (almost.fresh, almost.answer, almost.fingerprint) == (False, b"done", BODY)
    seed = notification(tenant).id
    fresh = await reserved(store, NOW + KEPT_MS, tenant, "k", body, seed)
    assert fresh == Reservation(True, body, seed)
    later = await reserved(store, NOW + KEPT_MS + 1, tenant, "k", body, notification(tenant).id)
    assert (later.fresh, later.answer, later.fingerprint, later.seed) == (False, None, body, seed)


async def test_tenants_do_not_share_keys(store: Store, tenant: str) -> None:
    for owner in (tenant, unique("other")):
        assert (await reserved(store, NOW, owner, "k", BODY, notification(owner).id)).fresh


async def test_of_concurrent_callers_one_wins(store: Store, tenant: str) -> None:
    await turn(store, NOW)
    for round in range(5):
        answers = await asyncio.gather(
            *(reserved(store, NOW, tenant, f"k{round}", BODY, notification(tenant).id) for _ in range(12))
        )
        assert [answer.fresh for answer in answers].count(True) == 1
        assert not any(answer.retaken for answer in answers)


async def test_of_concurrent_callers_one_retakes(store: Store, tenant: str) -> None:
    seed = notification(tenant).id
    await reserved(store, NOW, tenant, "k", BODY, seed)
    await turn(store, NOW + 60_000)
    answers = await asyncio.gather(
        *(reserved(store, NOW + 60_000, tenant, "k", BODY, notification(tenant).id) for _ in range(12))
    )
    assert [answer for answer in answers if answer.fresh] == [Reservation(True, BODY, seed, retaken=True)]


async def test_old_keys_are_swept(store: Store, tenant: str) -> None:
    for age in range(4):
        await reserved(store, NOW - age * 1000, tenant, f"k{age}", BODY, notification(tenant).id)
    await store.idempotency.complete(tenant, "k3", b"done")
    await turn(store, NOW)
    assert await store.idempotency.prune(1000, 1) == 1
    assert await store.idempotency.prune(1000, 10) == 1
    assert await store.idempotency.prune(1000, 10) == 0
    assert not (await reserved(store, NOW, tenant, "k1", BODY, notification(tenant).id)).fresh
    assert (await reserved(store, NOW, tenant, "k3", BODY, notification(tenant).id)).fresh


async def test_the_stores_clock_decides_about_reservations(store: Store, tenant: str) -> None:
    await turn(store, NOW)
    first = await store.idempotency.reserve(tenant, "k", BODY, notification(tenant).id, 30.0)
    assert first.reserved_at == NOW
    await turn(store, NOW + 30_000)
    second = await store.idempotency.reserve(tenant, "k", BODY, notification(tenant).id, 30.0)
    assert (second.retaken, second.reserved_at) == (True, NOW + 30_000)
    await store.idempotency.forget(tenant, "k", first.reserved_at)
    assert not (await store.idempotency.reserve(tenant, "k", BODY, notification(tenant).id, 30.0)).fresh
    await store.idempotency.forget(tenant, "k", second.reserved_at)
    assert (await store.idempotency.reserve(tenant, "k", BODY, notification(tenant).id, 30.0)).fresh
