"""The declared categories of tenants, cached for a second."""

from __future__ import annotations

from collections.abc import Collection

from tidings.model.user import Category
from tidings.ports.clock import Clock
from tidings.ports.tenants import Tenants

FRESH_MS = 1_000
"""Milliseconds after which a tenant's categories are read again."""


class Categories:
    """Looks categories up. A category that the tenant did not declare has the defaults: not critical, no doubles."""

    def __init__(self, tenants: Tenants, clock: Clock) -> None:
        """Ages are measured by `clock.elapsed`: if a wall clock were set back, old entries would look fresh."""
        self._tenants = tenants
        self._clock = clock
        self._known: dict[str, tuple[int, dict[str, Category]]] = {}

    async def load(self, tenants: Collection[str]) -> None:
        """Load the categories of these tenants, for `get`. Call it once per batch."""
        now = self._clock.elapsed()
        for tenant in sorted(tenants):  # the order of a set differs by process, and a simulation must be repeatable
            known = self._known.get(tenant)
            if known is None or now - known[0] > FRESH_MS:
                declared = {category.name: category for category in await self._tenants.categories(tenant)}
                self._known[tenant] = (now, declared)

    def get(self, tenant: str, name: str) -> Category:
        """The category `name` of a tenant that was loaded, with the defaults if it is not declared."""
        known = self._known[tenant][1]
        category = known.get(name)
        if category is None:
            category = known[name] = Category(name)
        return category
