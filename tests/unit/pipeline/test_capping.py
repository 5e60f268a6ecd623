"""Caps and the dedupe window through the whole flow: what a person gets, and what is recorded about the rest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from support.deliveries import make_delivery
from support.flow import SMS, TENANT, Flow
from tidings.model.delivery import Delivery
from tidings.model.notification import Content, SmsContent
from tidings.model.sending import Rejected, Retry, SendResult, Sent
from tidings.model.template import Variable
from tidings.model.user import Address, Cap, Category, Preferences, QuietHours
from tidings.model.vocabulary import Channel, Excess, State
from tidings.pipeline.deliver.capping import Capping
from tidings.pipeline.runtime.categories import Categories
from tidings.policy.caps import Count, Over

HOUR = 3600


def text(words: str) -> dict[str, Any]:
    return {"sms": {"text": words}}


async def declare(flow: Flow, name: str = "news", **fields: Any) -> None:
    await flow.store.tenants.put_category(TENANT, Category(name, **fields))


async def send(flow: Flow, many: int = 1, **fields: Any) -> list[Any]:
    """Accept `many` notifications, each with its own text, and let all stages work."""
    known: dict[str, Any] = {"to": {"user_id": "ada"}, "category": "news"} | fields
    ids = [await flow.accept(**({"content": text(f"number {number}")} | known)) for number in range(many)]
    await flow.settle()
    return ids


async def states(flow: Flow, ids: list[Any]) -> list[tuple[State, str]]:
    ends = []
    for id in ids:
        seen = await flow.view(id)
        ends.append((seen.state, seen.deliveries[-1].reason))
    return ends


def sent(flow: Flow, channel: Channel = Channel.SMS) -> int:
    return len(flow.provider(channel).sent)


async def test_deliveries_over_a_cap_are_suppressed_and_name_the_cap(flow: Flow) -> None:
    await flow.user()
    await declare(flow, caps=(Cap(2, HOUR), Cap(10, 24 * HOUR)))
    ids = await send(flow, 3)
    assert await states(flow, ids) == [(State.SENT, ""), (State.SENT, ""), (State.SUPPRESSED, "capped")]
    seen = await flow.view(ids[2])
    assert next(entry.detail for entry in seen.timeline if entry.reason == "capped") == "at most 2 in 3600 s"
    await flow.advance(HOUR)
    assert await states(flow, await send(flow)) == [(State.SENT, "")]


async def test_deliveries_over_a_holding_cap_wait_once_until_there_is_room(flow: Flow) -> None:
    await flow.user()
    await declare(flow, caps=(Cap(1, HOUR),), excess=Excess.HOLD)
    ids = await send(flow, 4)
    assert [state for state, _ in await states(flow, ids)] == [State.SENT] + 3 * [State.DEFERRED]
    for hours in range(1, 4):
        await flow.advance(HOUR - 1)
        assert sent(flow) == hours
        await flow.advance(1)
        assert sent(flow) == hours + 1
    assert await states(flow, ids) == 4 * [(State.SENT, "")]
    for id in ids[1:]:
        waits = [entry for entry in (await flow.view(id)).timeline if entry.reason == "capped"]
        assert len(waits) == 1


async def test_a_delivery_that_would_expire_first_is_not_held(flow: Flow) -> None:
    await flow.user()
    await declare(flow, caps=(Cap(1, HOUR),), excess=Excess.HOLD)
    soon = datetime.fromtimestamp(flow.clock.now() / 1000 + HOUR, UTC).isoformat()
    ids = await send(flow, 2, expires_at=soon)
    assert await states(flow, ids) == [(State.SENT, ""), (State.EXPIRED, "capped")]


async def test_the_overall_cap_counts_all_categories_that_are_not_critical(flow: Flow) -> None:
    await flow.user()
    await declare(flow, "*", caps=(Cap(2, HOUR),))
    await declare(flow, "code", critical=True)
    ids = [(await send(flow, category=category))[0] for category in ("code", "news", "code", "offers", "news", "code")]
    assert [state for state, _ in await states(flow, ids)] == [
        State.SENT, State.SENT, State.SENT, State.SENT, State.SUPPRESSED, State.SENT,
    ]  # fmt: skip


async def test_people_and_categories_are_counted_apart(flow: Flow) -> None:
    await flow.user("ada")
    await flow.user("eve", phone="+4915123456788")
    await declare(flow, caps=(Cap(1, HOUR),))
    ids = await send(flow, 2)
    ids += await send(flow, 2, to={"user_id": "eve"})
    ids += await send(flow, 2, category="other")
    ids += await send(flow, 2, to={"phone": "+4915123456787"})
    sent, capped = (State.SENT, ""), (State.SUPPRESSED, "capped")
    assert await states(flow, ids) == [sent, capped, sent, capped, sent, sent, sent, capped]


async def scopes(flow: Flow, *deliveries: Delivery) -> list[list[bytes]]:
    """The scopes in which each delivery counts, as the store gets them."""
    asked: list[list[bytes]] = []

    class Asked:
        async def take(self, requests: Sequence[Sequence[Count]], now: int) -> Sequence[Over | None]:
            asked.extend([count.scope for count in counts] for counts in requests)
            return [None] * len(requests)

        async def prune(self, now: int) -> int:
            return 0

    categories = Categories(flow.store.tenants, flow.clock)
    await categories.load({delivery.tenant for delivery in deliveries})
    assert not await Capping(Asked(), categories).refused(deliveries, flow.clock.now())
    return asked


def aimed(number: int = 1, **fields: Any) -> Delivery:
    known: dict[str, Any] = {"tenant": TENANT, "user_id": "ada", "key": f"{TENANT}/ada", "category": "news"}
    known["content"] = Content(sms=SmsContent("Hello"))
    return make_delivery(number, **(known | fields))


INLINE = {"user_id": None, "key": f"{TENANT}/+4915123456789"}


@pytest.mark.parametrize(
    ("one", "other", "apart"),
    [
        ({}, {"address": Address(Channel.EMAIL, "ada@example.com")}, False),
        ({}, {"user_id": "eve"}, True),
        ({}, {"tenant": "other"}, True),
        ({}, {"category": "offers"}, True),
        ({"incarnation": 1}, {"incarnation": 2}, True),
        (INLINE, {"user_id": "+4915123456789"}, True),
        (INLINE, INLINE | {"key": f"{TENANT}/+4915123456788"}, True),
        (INLINE, INLINE | {"tenant": "other", "key": "other/+4915123456789"}, True),
        (INLINE, INLINE | {"category": "offers"}, True),
        ({"user_id": None, "key": f"{TENANT}/a@B.example"}, {"user_id": None, "key": f"{TENANT}/a@b.example"}, False),
    ],
)
async def test_a_cap_counts_one_persons_notifications_of_one_category(
    flow: Flow, one: dict[str, Any], other: dict[str, Any], apart: bool
) -> None:
    for tenant in (TENANT, "other"):
        for name in ("news", "offers"):
            await flow.store.tenants.put_category(tenant, Category(name, caps=(Cap(1, HOUR),)))
    [[first], [second]] = await scopes(flow, aimed(1, **one), aimed(2, **other))
    assert (first != second) is apart


@pytest.mark.parametrize(
    ("other", "apart"),
    [
        ({}, False),
        ({"user_id": "eve", "category": "news"}, False),
        ({"tenant": "other"}, True),
        ({"address": Address(Channel.SMS, "+4915123456788")}, True),
        ({"content": Content(sms=SmsContent("Goodbye"))}, True),
        ({"data": {"name": "Eve"}}, True),
        ({"content": None, "template": "hello"}, True),
    ],
)
async def test_a_dedupe_window_counts_one_content_at_one_address(
    flow: Flow, other: dict[str, Any], apart: bool
) -> None:
    for tenant in (TENANT, "other"):
        await flow.store.tenants.put_category(tenant, Category("news", dedupe=HOUR))
    [[first], [second]] = await scopes(flow, aimed(1), aimed(2, **other))
    assert (first != second) is apart


async def test_a_cap_a_window_and_the_overall_cap_count_apart(flow: Flow) -> None:
    await declare(flow, caps=(Cap(1, HOUR),), dedupe=HOUR)
    await declare(flow, "*", caps=(Cap(1, HOUR),))
    [counted] = await scopes(flow, aimed())
    assert len(set(counted)) == len(counted) == 3


async def test_all_channels_of_a_notification_count_once(flow: Flow) -> None:
    await flow.user()
    await declare(flow, caps=(Cap(1, HOUR),))
    everywhere = {"email": {"subject": "Hi", "text": "Hello"}, "sms": {"text": "Hello"}}
    first, second = [(await send(flow, content=everywhere))[0] for _ in range(2)]
    assert [delivery.state for delivery in (await flow.view(first)).deliveries] == [State.SENT, State.SENT]
    assert [delivery.state for delivery in (await flow.view(second)).deliveries] == 2 * [State.SUPPRESSED]


async def test_an_alternative_is_not_counted_again_and_a_capped_delivery_has_none(flow: Flow) -> None:
    await flow.user()
    await declare(flow, caps=(Cap(1, HOUR),))
    flow.provider(Channel.PUSH).answers = lambda _: Rejected("unregistered")
    fields: dict[str, Any] = {
        "content": {"push": {"title": "Hi", "body": "Hello"}, "sms": {"text": "Hello"}},
        "channels": ["push", "sms"],
        "strategy": "first_reachable",
    }
    first, second = [(await send(flow, **fields))[0] for _ in range(2)]
    assert (await flow.view(first)).state is State.SENT
    assert [(d.channel, d.state) for d in (await flow.view(second)).deliveries] == [(Channel.PUSH, State.SUPPRESSED)]
    assert (sent(flow, Channel.PUSH), sent(flow)) == (1, 1)


async def test_a_later_try_within_the_window_is_not_counted_again(flow: Flow) -> None:
    await flow.user()
    await declare(flow, caps=(Cap(1, HOUR),), dedupe=HOUR)
    answers: Iterator[SendResult] = iter([Retry("unavailable"), Sent(), Sent()])
    flow.provider(Channel.SMS).answers = lambda _: next(answers)
    first = await send(flow)
    second = await send(flow, content=text("another"))
    assert [state for state, _ in await states(flow, first + second)] == [State.DEFERRED, State.SUPPRESSED]
    await flow.advance(5)
    assert await states(flow, first) == [(State.SENT, "")]
    await flow.advance(HOUR - 1)
    third = await send(flow, content=text("a third"))
    assert await states(flow, third) == [(State.SUPPRESSED, "capped")], "the first counts from when it was sent"


async def test_a_later_try_after_the_window_needs_room(flow: Flow) -> None:
    await flow.user()
    await declare(flow, caps=(Cap(1, 60),), excess=Excess.HOLD)
    answers: Iterator[SendResult] = iter([Retry("unavailable", after_s=100), Sent(), Sent()])
    flow.provider(Channel.SMS).answers = lambda _: next(answers)
    first = await send(flow)
    await flow.advance(90)
    assert await states(flow, await send(flow, content=text("another"))) == [(State.SENT, "")]
    await flow.advance(59)
    assert await states(flow, first) == [(State.DEFERRED, "capped")]
    await flow.advance(1)
    assert await states(flow, first) == [(State.SENT, "")]


async def test_an_opt_out_comes_before_the_cap_and_counts_nothing(flow: Flow) -> None:
    await flow.user()
    await declare(flow, caps=(Cap(1, HOUR),))
    await flow.store.users.set_preferences(TENANT, "ada", Preferences(opted_out={"news": ()}), flow.clock.now())
    assert await states(flow, await send(flow)) == [(State.SUPPRESSED, "opted_out")]
    await flow.store.users.set_preferences(TENANT, "ada", Preferences(), flow.clock.now())
    assert await states(flow, await send(flow)) == [(State.SENT, "")]


async def test_deliveries_held_for_quiet_hours_still_obey_the_cap(flow: Flow) -> None:
    # 22:13 UTC on 2023-11-14
    await flow.user("ada", Preferences(quiet_hours=QuietHours(22 * 60, 7 * 60)), timezone="UTC")
    await declare(flow, caps=(Cap(1, HOUR),), excess=Excess.HOLD)
    ids = await send(flow, 3)
    await flow.advance(9 * HOUR)
    for hours in range(1, 3):
        assert sent(flow) == hours
        await flow.advance(HOUR)
    assert await states(flow, ids) == 3 * [(State.SENT, "")]


async def test_the_same_content_goes_to_an_address_once_within_the_window(flow: Flow) -> None:
    await flow.user()
    await declare(flow, dedupe=HOUR)
    ids = [(await send(flow, content=SMS))[0] for _ in range(2)]
    assert await states(flow, ids) == [(State.SENT, ""), (State.SUPPRESSED, "duplicate")]
    assert await states(flow, await send(flow, content=text("other words"))) == [(State.SENT, "")]
    await flow.advance(HOUR)
    assert await states(flow, await send(flow, content=SMS)) == [(State.SENT, "")]


async def test_an_address_is_the_same_in_all_of_its_spellings(flow: Flow) -> None:
    await declare(flow, dedupe=HOUR)
    mail = {"email": {"subject": "Hi", "text": "Hello"}}
    ids = [(await send(flow, content=mail, to={"email": f"{name}@example.com"}))[0] for name in ("Ada", "ada")]
    assert await states(flow, ids) == [(State.SENT, ""), (State.SUPPRESSED, "duplicate")]


async def test_other_data_is_other_content(flow: Flow) -> None:
    await flow.user()
    await declare(flow, dedupe=HOUR)
    await flow.template("ready", {"en": Content(sms=SmsContent("Parcel {{ n }}"))}, n=Variable())
    ends = []
    for number in (1, 2, 1):
        [id] = await send(flow, content=None, template="ready", data={"n": number})
        ends += await states(flow, [id])
    assert ends == [(State.SENT, ""), (State.SENT, ""), (State.SUPPRESSED, "duplicate")]


async def test_a_duplicate_does_not_count_for_a_cap(flow: Flow) -> None:
    await flow.user()
    await declare(flow, dedupe=HOUR, caps=(Cap(2, HOUR),))
    ids = [(await send(flow, content=content))[0] for content in (SMS, SMS, text("other words"))]
    assert await states(flow, ids) == [(State.SENT, ""), (State.SUPPRESSED, "duplicate"), (State.SENT, "")]


async def test_without_caps_and_windows_the_store_is_not_asked(flow: Flow, monkeypatch: pytest.MonkeyPatch) -> None:
    await flow.user()
    await declare(flow, caps=(Cap(1, HOUR),))
    monkeypatch.setattr(flow.store.caps, "take", None)
    assert await states(flow, await send(flow, category="other")) == [(State.SENT, "")]


async def test_a_delivery_that_no_provider_can_take_now_is_not_counted(
    flow: Flow, monkeypatch: pytest.MonkeyPatch
) -> None:
    await flow.user()
    await declare(flow, caps=(Cap(1, HOUR),))
    flow.provider(Channel.SMS).answers = lambda _: Retry("unreachable")
    await send(flow, 10, category="other")
    monkeypatch.setattr(flow.store.caps, "take", None)
    assert await states(flow, await send(flow)) == [(State.DEFERRED, "provider_open")]
