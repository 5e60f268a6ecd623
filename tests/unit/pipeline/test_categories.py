"""Categories: how long what a tenant declared is known, and what stands for what it did not declare."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tidings.backends.memory.clock import VirtualClock
from tidings.model.user import Category
from tidings.pipeline.runtime.categories import FRESH_MS, Categories

ALERTS = Category("alerts", critical=True)


class Tenants:
    def __init__(self) -> None:
        self.asked: list[str] = []
        self.declared = {"shop": [ALERTS, Category("news")]}

    async def categories(self, tenant: str) -> Sequence[Category]:
        self.asked.append(tenant)
        return self.declared.get(tenant, [])


async def test_what_is_declared_is_known_for_a_second_and_then_read_again() -> None:
    tenants: Any = Tenants()
    clock = VirtualClock()
    known = Categories(tenants, clock)
    await known.load(["shop"])
    assert known.get("shop", "alerts") == ALERTS
    tenants.declared = {"shop": []}
    await clock.advance(FRESH_MS / 1000)
    await known.load(["shop"])
    assert (known.get("shop", "alerts"), tenants.asked) == (ALERTS, ["shop"])
    await clock.advance(0.001)
    await known.load(["shop"])
    assert known.get("shop", "alerts") == Category("alerts")
    await clock.advance(FRESH_MS / 1000)
    await known.load(["shop"])
    assert tenants.asked == ["shop", "shop"], "its age begins anew"


async def test_each_tenant_has_its_own_and_all_are_read_in_one_order() -> None:
    tenants: Any = Tenants()
    known = Categories(tenants, VirtualClock())
    await known.load({"shop", "bank", "post"})
    assert tenants.asked == ["bank", "post", "shop"]
    assert (known.get("shop", "alerts"), known.get("bank", "alerts")) == (ALERTS, Category("alerts"))
    await known.load(["bank", "aaa"])
    assert tenants.asked[3:] == ["aaa"]


async def test_what_is_not_declared_has_the_defaults_and_stays_the_same_object() -> None:
    tenants: Any = Tenants()
    known = Categories(tenants, VirtualClock())
    await known.load(["shop"])
    assert known.get("shop", "other") == Category("other")
    assert known.get("shop", "other") is known.get("shop", "other")
    assert known.get("shop", "news") == Category("news")
