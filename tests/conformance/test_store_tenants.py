"""The promises of ports/store.py about tenants, API keys and categories, on every adapter."""

from __future__ import annotations

import hashlib

import pytest
from msgspec.structs import replace

from support import unique
from support.stores import NOW
from tidings.model.errors import NotFound
from tidings.model.tenant import ApiKey, Rate, Rates, Scope, Tenant
from tidings.model.user import Cap, Category, Retries
from tidings.model.vocabulary import Excess, QuietPolicy
from tidings.ports.store import Store


def api_key(tenant: str, created_at: int = NOW) -> ApiKey:
    id = unique("key")
    digest = hashlib.sha256(id.encode()).digest()
    return ApiKey(id, tenant, "td_live_ab", digest, (Scope.SEND, Scope.READ), "the shop", created_at)


async def test_an_id_is_given_once(store: Store, tenant: str) -> None:
    shop = Tenant(tenant, "The Shop ✓", NOW)
    assert await store.tenants.add(shop)
    assert not await store.tenants.add(Tenant(tenant, "another", NOW + 1))
    assert [known for known in await store.tenants.list() if known.id == tenant] == [shop]


async def test_tenants_by_id(store: Store) -> None:
    names = [unique(stem) for stem in ("c", "a", "b")]
    for name in names:
        await store.tenants.add(Tenant(name, name))
    assert [known.id for known in await store.tenants.list() if known.id in names] == sorted(names)


async def test_a_key_is_found_by_its_digest(store: Store, tenant: str) -> None:
    await store.tenants.add(Tenant(tenant, "shop"))
    key = api_key(tenant)
    await store.tenants.add_key(key)
    assert await store.tenants.key(key.digest) == key
    assert await store.tenants.key(hashlib.sha256(b"other").digest()) is None


async def test_limits_of_a_tenant_and_of_a_key(store: Store, tenant: str) -> None:
    slow, fast = Rates(requests=Rate(0.5, 3)), Rates(notifications=Rate(1000, 5000))
    assert not await store.tenants.limit(tenant, slow)
    await store.tenants.add(Tenant(tenant, "shop", NOW, fast))
    key = replace(api_key(tenant), limits=slow)
    await store.tenants.add_key(key)
    assert await store.tenants.key(key.digest) == replace(key, tenant_limits=fast)
    assert await store.tenants.keys(tenant) == [key]
    for limits in (slow, Rates()):
        assert await store.tenants.limit(tenant, limits)
        assert [known.limits for known in await store.tenants.list() if known.id == tenant] == [limits]
        assert await store.tenants.key(key.digest) == replace(key, tenant_limits=limits)


async def test_a_key_needs_a_tenant(store: Store, tenant: str) -> None:
    with pytest.raises(NotFound, match=tenant):
        await store.tenants.add_key(api_key(tenant))


async def test_the_keys_of_a_tenant_newest_first(store: Store, tenant: str) -> None:
    other = unique("other")
    for owner in (tenant, other):
        await store.tenants.add(Tenant(owner, owner))
    keys = [api_key(tenant, NOW + age) for age in (1, 3, 2)]
    for key in [*keys, api_key(other)]:
        await store.tenants.add_key(key)
    assert await store.tenants.keys(tenant) == [keys[1], keys[2], keys[0]]
    assert list(await store.tenants.keys(unique("nobody"))) == []


async def test_a_revoked_key_stays_known(store: Store, tenant: str) -> None:
    await store.tenants.add(Tenant(tenant, "shop"))
    key = api_key(tenant)
    await store.tenants.add_key(key)
    assert not await store.tenants.revoke(unique("other"), key.id, NOW)
    assert not await store.tenants.revoke(tenant, "no such key", NOW)
    assert await store.tenants.key(key.digest) == key
    assert await store.tenants.revoke(tenant, key.id, NOW + 7)
    assert await store.tenants.key(key.digest) == replace(key, revoked_at=NOW + 7)


async def test_categories_are_replaced_and_listed_by_name(store: Store, tenant: str) -> None:
    for owner in (tenant, unique("other")):
        await store.tenants.add(Tenant(owner, owner))
        await store.tenants.put_category(owner, Category("security", critical=True, description="codes"))
    await store.tenants.put_category(tenant, Category("news"))
    await store.tenants.put_category(tenant, Category("news", allow_doubles=True))
    assert await store.tenants.categories(tenant) == [
        Category("news", allow_doubles=True),
        Category("security", critical=True, description="codes"),
    ]
    assert list(await store.tenants.categories(unique("nobody"))) == []
    assert await store.tenants.delete_category(tenant, "news")
    assert not await store.tenants.delete_category(tenant, "news")
    assert [category.name for category in await store.tenants.categories(tenant)] == ["security"]


async def test_a_category_keeps_all_its_rules(store: Store, tenant: str) -> None:
    await store.tenants.add(Tenant(tenant, tenant))
    said = Category(
        "*",
        quiet_hours=QuietPolicy.DROP,
        retries=Retries(5, 0.5, 60.0),
        caps=(Cap(1, 3600), Cap(3, 86400)),
        excess=Excess.HOLD,
        dedupe=600,
    )
    await store.tenants.put_category(tenant, said)
    assert await store.tenants.categories(tenant) == [said]
