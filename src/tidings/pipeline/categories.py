"""The declared categories of a tenant, remembered for a moment."""

from __future__ import annotations

from tidings.model.user import Category
from tidings.ports.clock import Clock
from tidings.ports.store import Tenants

FRESH = 1_000
"""Milliseconds for which a tenant's categories are believed."""


class Categories:
    """Looks categories up. One that nobody declared has the defaults: not critical, no doubles."""

    def __init__(self, tenants: Tenants, clock: Clock) -> None:
        self._tenants = tenants
        self._clock = clock
        self._known: dict[str, tuple[int, dict[str, Category]]] = {}

    async def get(self, tenant: str, name: str) -> Category:
        """The category `name` of the tenant."""
        now = self._clock.now()
        known = self._known.get(tenant)
        if known is None or now - known[0] > FRESH:
            declared = {category.name: category for category in await self._tenants.categories(tenant)}
            known = self._known[tenant] = (now, declared)
        category = known[1].get(name)
        if category is None:
            category = known[1][name] = Category(name)
        return category
