"""Tenants, API keys and categories.

Every method that takes a `tenant` sees only that tenant's rows. Adapters raise `Unavailable` when the database does not
answer; unless stated otherwise, nothing was written then.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from tidings.model.tenant import ApiKey, Rates, Tenant
from tidings.model.user import Category


class Tenants(Protocol):
    """Tenants with their API keys and categories."""

    async def add(self, tenant: Tenant) -> bool:
        """Store a new tenant. False if the id is taken."""
        ...

    async def list(self) -> Sequence[Tenant]:
        """All tenants, sorted by id."""
        ...

    async def limit(self, tenant: str, limits: Rates) -> bool:
        """Replace the limits of a tenant. False if there is no such tenant."""
        ...

    async def add_key(self, key: ApiKey) -> None:
        """Store a key. Raises NotFound if there is no such tenant."""
        ...

    async def key(self, digest: bytes) -> ApiKey | None:
        """The key with this SHA-256 digest, revoked or not, with the limits of its tenant."""
        ...

    async def known(self, digests: Collection[bytes]) -> Mapping[bytes, ApiKey]:
        """The keys with these digests, as `key` gives them, by digest. Unknown digests are absent."""
        ...

    async def keys(self, tenant: str) -> Sequence[ApiKey]:
        """The tenant's keys, newest first."""
        ...

    async def revoke(self, tenant: str, key_id: str, now: int) -> bool:
        """Revoke a key; a revoked key keeps its first instant. False if there is no such key."""
        ...

    async def put_category(self, tenant: str, category: Category) -> None:
        """Create or replace a category."""
        ...

    async def delete_category(self, tenant: str, name: str) -> bool:
        """Delete a declared category. False if it was not declared."""
        ...

    async def categories(self, tenant: str) -> Sequence[Category]:
        """All declared categories of the tenant, sorted by name."""
        ...
