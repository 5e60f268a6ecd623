"""Rules that the simulation does not reach: each holds, and breaks when the mistake that it prevents is put back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec
import pytest

from support.deliveries import make_delivery
from support.flow import MAIL, Flow
from tidings.model.delivery import Delivery
from tidings.model.notification import Content, EmailContent
from tidings.model.outcome import Wait
from tidings.model.sending import About, Retry, Uncertain
from tidings.model.tenant import Tenant
from tidings.model.user import Address, Category, Preferences
from tidings.model.vocabulary import Channel, State
from tidings.pipeline.deliver import attempts, capping
from tidings.pipeline.deliver.capping import Capping
from tidings.pipeline.rounds import sweep
from tidings.pipeline.runtime.categories import Categories
from tidings.pipeline.runtime.deliveries import wait_for
from tidings.policy.retry import hold_until
from tidings.policy.throttling import Throttling
from tidings.roles.worker import audit

LONG = 150
"""Seconds after which a delivery in flight counts as stuck."""


async def a_swept_delivery_keeps_its_doubt(flow: Flow) -> None:
    await flow.user()
    mails = flow.provider(Channel.EMAIL)
    mails.idempotent = True
    mails.answers = lambda _: Uncertain("timeout")
    id = await flow.accept(to={"user_id": "ada"}, content=MAIL)
    await flow.settle()
    await flow.store.schedule.settle([row.id for row in await flow.store.schedule.due(2**60, 10, 0.0)])
    await flow.user("ada", Preferences(muted=True))
    auditor = audit(flow.parts(), flow.clock)
    await flow.clock.advance(LONG)
    await flow.accepted.write()
    assert await auditor.once()
    await flow.settle()
    assert len(mails.sent) == 1
    assert (await flow.view(id)).state is State.UNCERTAIN


async def what_waits_is_not_looked_at_before_a_provider_may_be_used(flow: Flow) -> None:
    flow.provider(Channel.EMAIL).answers = lambda _: Retry("throttled", 600.0, about=About.ACCOUNT)
    await flow.accept(to={"email": "first@example.com"}, content=MAIL)
    await flow.settle()
    id = await flow.accept(to={"email": "second@example.com"}, content=MAIL)
    for _ in range(59):
        await flow.advance(10)
    held = [entry for entry in (await flow.view(id)).timeline if entry.state is State.DEFERRED]
    assert len(held) == 1


async def the_longest_pause_that_is_asked_for_counts(flow: Flow) -> None:
    mails = flow.provider(Channel.EMAIL)
    asked = iter([5.0, 600.0])
    mails.answers = lambda _: Retry("throttled", next(asked, 5.0), about=About.ACCOUNT)
    for person in ("first", "second"):
        await flow.accept(to={"email": f"{person}@example.com"}, content=MAIL)
    await flow.settle()
    offered = len(mails.sent)
    assert offered == 2
    for _ in range(59):
        await flow.advance(10)
    assert len(mails.sent) == offered


async def what_one_tenant_says_is_no_duplicate_of_anothers(flow: Flow) -> None:
    tenants = ("one", "other")
    for tenant in tenants:
        await flow.store.tenants.add(Tenant(tenant, tenant))
        await flow.store.tenants.put_category(tenant, Category("alerts", dedupe=600))
    categories = Categories(flow.store.tenants, flow.clock)
    await categories.load(tenants)
    asking = Capping(flow.store.caps, categories)
    said = Content(email=EmailContent("Hi", "Hello"))
    for number, tenant in enumerate(tenants, 1):
        to = Address(Channel.EMAIL, "ada@example.com")
        delivery = make_delivery(number, tenant=tenant, address=to, category="alerts", content=said)
        assert not await asking.refused([delivery], flow.clock.now())


def a_content_counts_for_all_tenants(patch: pytest.MonkeyPatch) -> None:
    """Mistake: content that one tenant sent to an address is a duplicate when another tenant sends it."""
    content = capping._content
    patch.setattr(capping, "_content", lambda delivery: content(msgspec.structs.replace(delivery, tenant="")))


def the_shortest_pause_counts(patch: pytest.MonkeyPatch) -> None:
    """Mistake: of several waits that a provider asks for, the shortest counts."""
    pause_s = Throttling.pause_s

    def shortest(self: Throttling, asked: Sequence[float | None], longest_s: float, *, goes_on: bool) -> float:
        positive = [after for after in asked if after is not None and after > 0]
        return pause_s(self, [min(positive, default=None)], longest_s, goes_on=goes_on)

    patch.setattr(Throttling, "pause_s", shortest)


def the_doubt_is_dropped(patch: pytest.MonkeyPatch) -> None:
    """Mistake: a swept delivery goes back into its queue as if no provider could have taken it."""

    def without_doubt(delivery: Delivery, due: int) -> Wait:
        return wait_for(msgspec.structs.replace(delivery, doubtful=False), due)

    patch.setattr(sweep, "wait_for", without_doubt)


def the_next_try_is_ignored(patch: pytest.MonkeyPatch) -> None:
    """Mistake: the known end of a provider's pause is ignored."""

    def hasty(waits: int, now: int, ends_at: int, _: float, *more: Any) -> int | None:
        return hold_until(waits, now, ends_at, 0.0, *more)

    patch.setattr(attempts, "hold_until", hasty)


CASES = [
    (what_one_tenant_says_is_no_duplicate_of_anothers, a_content_counts_for_all_tenants),
    (a_swept_delivery_keeps_its_doubt, the_doubt_is_dropped),
    (the_longest_pause_that_is_asked_for_counts, the_shortest_pause_counts),
    (what_waits_is_not_looked_at_before_a_provider_may_be_used, the_next_try_is_ignored),
]


@pytest.mark.parametrize(("rule", "bug"), CASES, ids=lambda value: value.__name__)
async def test_the_rule_holds_and_finds_the_mistake(
    rule: Callable[[Flow], Awaitable[None]],
    bug: Callable[[pytest.MonkeyPatch], None],
    flow: Flow,
    tmp_path: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await rule(flow)
    bug(monkeypatch)
    (tmp_path / "again").mkdir()
    other = await Flow(tmp_path / "again").start()
    with pytest.raises(AssertionError):
        await rule(other)
