"""The declared categories of a tenant, remembered for a moment."""

from __future__ import annotations

from collections.abc import Collection

from tidings.model.user import Category
from tidings.ports.clock import Clock
from tidings.ports.tenants import Tenants

FRESH = 1_000
"""Milliseconds for which a tenant's categories are believed."""


class Categories:
    """Looks categories up. One that nobody declared has the defaults: not critical, no doubles."""

    def __init__(self, tenants: Tenants, clock: Clock) -> None:
        """Age is measured by `clock.elapsed`: a wall clock that is set back would make them look young."""
        self._tenants = tenants
        self._clock = clock
        self._known: dict[str, tuple[int, dict[str, Category]]] = {}

    async def load(self, tenants: Collection[str]) -> None:
        """Make `get` know these tenants. To be called once per batch."""
        now = self._clock.elapsed()
        for tenant in sorted(tenants):  # a set has another order in every process, and a run must be repeatable
            known = self._known.get(tenant)
            if known is None or now - known[0] > FRESH:
                declared = {category.name: category for category in await self._tenants.categories(tenant)}
                self._known[tenant] = (now, declared)

    def get(self, tenant: str, name: str) -> Category:
        """The category `name` of a tenant that was loaded."""
        known = self._known[tenant][1]
        category = known.get(name)
        if category is None:
            category = known[name] = Category(name)
        return category
