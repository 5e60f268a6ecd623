"""Tenants, API keys, categories and idempotency keys in memory."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from uuid import UUID

from msgspec import Struct
from msgspec.structs import replace

from tidings.backends.memory.clock import Now
from tidings.model.errors import NotFound
from tidings.model.tenant import ApiKey, Rates, Tenant
from tidings.model.user import Category
from tidings.policy.idempotency import KEPT_MS
from tidings.ports.idempotency import Reservation


class MemoryTenants:
    """See Tenants."""

    def __init__(self) -> None:
        self._tenants: dict[str, Tenant] = {}
        self._keys: dict[bytes, ApiKey] = {}
        self._categories: dict[tuple[str, str], Category] = {}

    async def add(self, tenant: Tenant) -> bool:
        """See Tenants."""
        if tenant.id in self._tenants:
            return False
        self._tenants[tenant.id] = tenant
        return True

    async def list(self) -> Sequence[Tenant]:
        """See Tenants."""
        return sorted(self._tenants.values(), key=lambda tenant: tenant.id)

    async def limit(self, tenant: str, limits: Rates) -> bool:
        """See Tenants."""
        if tenant not in self._tenants:
            return False
        self._tenants[tenant] = replace(self._tenants[tenant], limits=limits)
        return True

    async def add_key(self, key: ApiKey) -> None:
        """See Tenants."""
        if key.tenant not in self._tenants:
            raise NotFound("tenant", key.tenant)
        self._keys[key.digest] = key

    async def key(self, digest: bytes) -> ApiKey | None:
        """See Tenants."""
        key = self._keys.get(digest)
        return None if key is None else replace(key, tenant_limits=self._tenants[key.tenant].limits)

    async def known(self, digests: Collection[bytes]) -> Mapping[bytes, ApiKey]:
        """See Tenants."""
        return {digest: key for digest in digests if (key := await self.key(digest)) is not None}

    async def keys(self, tenant: str) -> Sequence[ApiKey]:
        """See Tenants."""
        mine = [key for key in self._keys.values() if key.tenant == tenant]
        return sorted(mine, key=lambda key: (key.created_at, key.id), reverse=True)

    async def revoke(self, tenant: str, key_id: str, now: int) -> bool:
        """See Tenants."""
        for key in await self.keys(tenant):
            if key.id == key_id:
                self._keys[key.digest] = replace(key, revoked_at=key.revoked_at or now)
                return True
        return False

    async def put_category(self, tenant: str, category: Category) -> None:
        """See Tenants."""
        self._categories[tenant, category.name] = category

    async def delete_category(self, tenant: str, name: str) -> bool:
        """See Tenants."""
        return self._categories.pop((tenant, name), None) is not None

    async def categories(self, tenant: str) -> Sequence[Category]:
        """See Tenants."""
        mine = [category for (owner, _), category in self._categories.items() if owner == tenant]
        return sorted(mine, key=lambda category: category.name)


class _Reserved(Struct):
    fingerprint: bytes
    seed: UUID
    reserved_at: int
    leased_until: int
    answer: bytes | None = None


class MemoryIdempotency:
    """See Idempotency."""

    def __init__(self, clock: Now) -> None:
        self._clock = clock
        self._reserved: dict[tuple[str, str], _Reserved] = {}

    async def reserve(self, tenant: str, key: str, fingerprint: bytes, seed: UUID, lease_s: float) -> Reservation:
        """See Idempotency."""
        now = self._clock()
        until = now + round(lease_s * 1000)
        known = self._reserved.get((tenant, key))
        if known is None or now - known.reserved_at >= KEPT_MS:
            self._reserved[tenant, key] = _Reserved(fingerprint, seed, now, until)
            return Reservation(fresh=True, fingerprint=fingerprint, seed=seed, reserved_at=now)
        abandoned = known.answer is None and known.leased_until <= now
        if abandoned and known.fingerprint == fingerprint:
            known.reserved_at, known.leased_until = now, until
            return Reservation(fresh=True, fingerprint=fingerprint, seed=known.seed, retaken=True, reserved_at=now)
        return Reservation(fresh=False, fingerprint=known.fingerprint, seed=known.seed, answer=known.answer)

    async def complete(self, tenant: str, key: str, answer: bytes) -> None:
        """See Idempotency."""
        if known := self._reserved.get((tenant, key)):
            known.answer = answer

    async def forget(self, tenant: str, key: str, reserved_at: int) -> None:
        """See Idempotency."""
        known = self._reserved.get((tenant, key))
        if known is not None and known.answer is None and known.reserved_at == reserved_at:
            del self._reserved[tenant, key]

    async def abandon(self, tenant: str, key: str, reserved_at: int) -> None:
        """See Idempotency."""
        known = self._reserved.get((tenant, key))
        if known is not None and known.answer is None and known.reserved_at == reserved_at:
            known.leased_until = reserved_at

    async def prune(self, age_ms: int, most: int) -> int:
        """See Idempotency."""
        before = self._clock() - age_ms
        old = [key for key, known in self._reserved.items() if known.reserved_at < before][:most]
        for key in old:
            del self._reserved[key]
        return len(old)
