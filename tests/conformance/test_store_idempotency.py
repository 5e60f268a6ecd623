"""Idempotency keys: the promises of ports/store.py, on every adapter."""

from __future__ import annotations

import asyncio

import pytest

from support import unique
from support_stores import NOW, notification
from tidings.policy.idempotency import KEPT
from tidings.ports.idempotency import Reservation
from tidings.ports.store import Store

BODY = b"\x01" * 32
OTHER_BODY = b"\x02" * 32


async def test_the_first_caller_owns_the_key(store: Store, tenant: str) -> None:
    seed = notification(tenant).id
    assert await store.idempotency.reserve(tenant, "k", BODY, seed, NOW, 30.0) == Reservation(True, BODY, seed)


async def test_a_second_caller_hears_that_it_is_in_flight(store: Store, tenant: str) -> None:
    await store.idempotency.reserve(tenant, "k", BODY, notification(tenant).id, NOW, 30.0)
    second = await store.idempotency.reserve(tenant, "k", OTHER_BODY, notification(tenant).id, NOW + 1, 30.0)
    assert (second.fresh, second.answer, second.fingerprint) == (False, None, BODY)


async def test_the_answer_is_replayed(store: Store, tenant: str) -> None:
    await store.idempotency.reserve(tenant, "k", BODY, notification(tenant).id, NOW, 30.0)
    await store.idempotency.complete(tenant, "k", b'{"id":"\xc3\xa9"}')
    for later in (1, 40_000):
        again = await store.idempotency.reserve(tenant, "k", BODY, notification(tenant).id, NOW + later, 30.0)
        assert (again.fresh, again.answer, again.fingerprint) == (False, b'{"id":"\xc3\xa9"}', BODY)


async def test_an_abandoned_key_is_retaken_with_its_ids(store: Store, tenant: str) -> None:
    seed = notification(tenant).id
    await store.idempotency.reserve(tenant, "k", BODY, seed, NOW, 30.0)
    again = await store.idempotency.reserve(tenant, "k", BODY, notification(tenant).id, NOW + 31_000, 30.0)
    assert again == Reservation(True, BODY, seed, retaken=True)
    third = await store.idempotency.reserve(tenant, "k", BODY, notification(tenant).id, NOW + 32_000, 30.0)
    assert (third.fresh, third.answer) == (False, None)


async def test_a_forgotten_key_is_free(store: Store, tenant: str) -> None:
    await store.idempotency.reserve(tenant, "k", BODY, notification(tenant).id, NOW, 30.0)
    await store.idempotency.forget(tenant, "k", NOW)
    seed = notification(tenant).id
    assert await store.idempotency.reserve(tenant, "k", OTHER_BODY, seed, NOW, 30.0) == Reservation(
        True, OTHER_BODY, seed
    )
    await store.idempotency.forget(tenant, "never there", NOW)


async def test_only_its_owner_frees_a_key(store: Store, tenant: str) -> None:
    await store.idempotency.reserve(tenant, "k", BODY, notification(tenant).id, NOW, 30.0)
    assert (await store.idempotency.reserve(tenant, "k", BODY, notification(tenant).id, NOW + 30_000, 30.0)).retaken
    await store.idempotency.forget(tenant, "k", NOW)
    assert not (await store.idempotency.reserve(tenant, "k", BODY, notification(tenant).id, NOW + 30_001, 30.0)).fresh
    await store.idempotency.complete(tenant, "k", b"done")
    await store.idempotency.forget(tenant, "k", NOW + 30_000)
    kept = await store.idempotency.reserve(tenant, "k", BODY, notification(tenant).id, NOW + 60_000, 30.0)
    assert kept.answer == b"done"


async def test_an_abandoned_reservation_is_retaken_at_once(store: Store, tenant: str) -> None:
    seed = notification(tenant).id
    await store.idempotency.reserve(tenant, "k", BODY, seed, NOW, 30.0)
    await store.idempotency.abandon(tenant, "k", NOW - 1, 30.0)
    assert not (await store.idempotency.reserve(tenant, "k", BODY, notification(tenant).id, NOW + 1, 30.0)).fresh
    await store.idempotency.abandon(tenant, "k", NOW, 30.0)
    again = await store.idempotency.reserve(tenant, "k", BODY, notification(tenant).id, NOW + 1, 30.0)
    assert again == Reservation(True, BODY, seed, retaken=True)
    await store.idempotency.complete(tenant, "k", b"done")
    await store.idempotency.abandon(tenant, "k", NOW + 1, 30.0)
    assert (await store.idempotency.reserve(tenant, "k", BODY, seed, NOW + 2, 30.0)).answer == b"done"


@pytest.mark.parametrize("answered", [True, False])
@pytest.mark.parametrize("body", [BODY, OTHER_BODY])
async def test_a_key_of_yesterday_was_never_used(store: Store, tenant: str, answered: bool, body: bytes) -> None:
    await store.idempotency.reserve(tenant, "k", BODY, notification(tenant).id, NOW, 30.0)
    if answered:
        await store.idempotency.complete(tenant, "k", b"done")
        almost = await store.idempotency.reserve(tenant, "k", body, notification(tenant).id, NOW + KEPT - 1, 30.0)
        assert (almost.fresh, almost.answer, almost.fingerprint) == (False, b"done", BODY)
    seed = notification(tenant).id
    fresh = await store.idempotency.reserve(tenant, "k", body, seed, NOW + KEPT, 30.0)
    assert fresh == Reservation(True, body, seed)
    later = await store.idempotency.reserve(tenant, "k", body, notification(tenant).id, NOW + KEPT + 1, 30.0)
    assert (later.fresh, later.answer, later.fingerprint, later.seed) == (False, None, body, seed)


async def test_tenants_do_not_share_keys(store: Store, tenant: str) -> None:
    for owner in (tenant, unique("other")):
        assert (await store.idempotency.reserve(owner, "k", BODY, notification(owner).id, NOW, 30.0)).fresh


async def test_of_concurrent_callers_one_wins(store: Store, tenant: str) -> None:
    for round in range(5):
        answers = await asyncio.gather(
            *(
                store.idempotency.reserve(tenant, f"k{round}", BODY, notification(tenant).id, NOW, 30.0)
                for _ in range(12)
            )
        )
        assert [answer.fresh for answer in answers].count(True) == 1
        assert not any(answer.retaken for answer in answers)


async def test_of_concurrent_callers_one_retakes(store: Store, tenant: str) -> None:
    seed = notification(tenant).id
    await store.idempotency.reserve(tenant, "k", BODY, seed, NOW, 30.0)
    answers = await asyncio.gather(
        *(store.idempotency.reserve(tenant, "k", BODY, notification(tenant).id, NOW + 60_000, 30.0) for _ in range(12))
    )
    assert [answer for answer in answers if answer.fresh] == [Reservation(True, BODY, seed, retaken=True)]


async def test_old_keys_are_swept(store: Store, tenant: str) -> None:
    for age in range(4):
        await store.idempotency.reserve(tenant, f"k{age}", BODY, notification(tenant).id, NOW - age * 1000, 30.0)
    await store.idempotency.complete(tenant, "k3", b"done")
    assert await store.idempotency.sweep(NOW - 1000) == 2
    assert not (await store.idempotency.reserve(tenant, "k1", BODY, notification(tenant).id, NOW, 30.0)).fresh
    assert (await store.idempotency.reserve(tenant, "k3", BODY, notification(tenant).id, NOW, 30.0)).fresh
