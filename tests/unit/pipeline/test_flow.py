"""All stages over the memory adapters: what a person gets, and what is recorded about it."""

from __future__ import annotations

from typing import Any

import pytest

from support.flow import EVERYWHERE, INBOX, MAIL, TENANT, Flow, instant
from tidings.model.notification import Content, EmailContent, InappContent, PushContent, SmsContent
from tidings.model.template import Variable
from tidings.model.user import Category, Preferences, QuietHours
from tidings.model.vocabulary import Channel, State


async def test_one_request_reaches_every_channel(flow: Flow) -> None:
    await flow.user("ada", devices=("phone", "tablet"))
    id = await flow.accept(to={"user_id": "ada"}, content=EVERYWHERE)
    await flow.settle()
    seen = await flow.view(id)
    assert seen.state is State.SENT
    assert [(d.channel, d.state) for d in seen.deliveries] == [
        (Channel.EMAIL, State.SENT),
        (Channel.SMS, State.SENT),
        (Channel.INAPP, State.SENT),
        (Channel.PUSH, State.SENT),
        (Channel.PUSH, State.SENT),
    ]
    assert {sent.to for sent in flow.provider(Channel.PUSH).sent} == {"phone", "tablet"}
    assert next(entry.state for entry in seen.timeline) is State.PENDING
    assert all(len(delivery.attempts) == 1 for delivery in seen.deliveries)


async def test_a_template_is_rendered_in_the_users_language(flow: Flow) -> None:
    await flow.user("ada", locale="pt-BR")
    await flow.template(
        "welcome",
        {
            "en": Content(email=EmailContent("Hello {{ name }}", text="Hello {{ name }}")),
            "pt": Content(email=EmailContent("Olá {{ name }}", text="Olá {{ name }}")),
        },
        name=Variable(),
    )
    await flow.accept(to={"user_id": "ada"}, template="welcome", data={"name": "Ada"})
    await flow.settle()
    [sent] = flow.provider(Channel.EMAIL).sent
    assert isinstance(sent.content, EmailContent)
    assert sent.content.subject == "Olá Ada"


async def test_an_unknown_user_is_accounted_for(flow: Flow) -> None:
    id = await flow.accept(to={"user_id": "nobody"}, content=MAIL)
    await flow.settle()
    seen = await flow.view(id)
    assert (seen.state, seen.reason) == (State.SUPPRESSED, "unknown_user")


async def test_inline_addresses_need_no_user(flow: Flow) -> None:
    id = await flow.accept(to={"email": "Bob@Example.com", "phone": "+44 7400 123456"}, content=EVERYWHERE)
    await flow.settle()
    states = {delivery.channel: (delivery.state, delivery.reason) for delivery in (await flow.view(id)).deliveries}
    assert states[Channel.EMAIL] == (State.SENT, "")
    assert states[Channel.SMS] == (State.SENT, "")
    assert states[Channel.PUSH] == (State.SUPPRESSED, "no_address")
    assert flow.provider(Channel.SMS).sent[0].to == "+447400123456"


async def test_send_at_waits_and_sends_once(flow: Flow) -> None:
    await flow.user()
    id = await flow.accept(to={"user_id": "ada"}, content=MAIL, send_at=instant(flow.clock.now() + 60_000))
    await flow.settle()
    assert (await flow.view(id)).state is State.DEFERRED
    await flow.advance(59)
    assert not flow.provider(Channel.EMAIL).sent
    await flow.advance(1)
    assert len(flow.provider(Channel.EMAIL).sent) == 1
    assert (await flow.view(id)).state is State.SENT
    await flow.advance(3600)
    assert len(flow.provider(Channel.EMAIL).sent) == 1


async def test_quiet_hours_hold_until_they_end_and_critical_passes(flow: Flow) -> None:
    # 22:13 UTC on 2023-11-14
    quiet = Preferences(quiet_hours=QuietHours(22 * 60, 7 * 60))
    await flow.user("ada", quiet, timezone="UTC")
    await flow.store.tenants.put_category(TENANT, Category("code", critical=True))
    held = await flow.accept(to={"user_id": "ada"}, content=MAIL)
    urgent = await flow.accept(to={"user_id": "ada"}, content=MAIL, category="code")
    await flow.settle()
    assert (await flow.view(held)).deliveries[0].reason == "quiet_hours"
    assert (await flow.view(urgent)).state is State.SENT
    await flow.advance(9 * 3600)
    assert (await flow.view(held)).state is State.SENT
    assert len(flow.provider(Channel.EMAIL).sent) == 2


async def test_an_opt_out_between_accept_and_send_wins(flow: Flow) -> None:
    await flow.user(preferences=Preferences(quiet_hours=QuietHours(22 * 60, 7 * 60)), timezone="UTC")
    id = await flow.accept(to={"user_id": "ada"}, content=MAIL, category="marketing")
    await flow.settle()
    await flow.store.users.set_preferences(TENANT, "ada", Preferences(opted_out={"marketing": ()}), flow.clock.now())
    await flow.advance(10 * 3600)
    seen = await flow.view(id)
    assert (seen.state, seen.reason) == (State.SUPPRESSED, "opted_out")
    assert not flow.provider(Channel.EMAIL).sent


async def test_a_cancelled_notification_ends_at_once(flow: Flow) -> None:
    await flow.user()
    id = await flow.accept(to={"user_id": "ada"}, content=MAIL, send_at=instant(flow.clock.now() + 3_600_000))
    await flow.settle()
    await flow.store.cancellations.cancel(TENANT, id, flow.clock.now())
    await flow.settle()
    assert (await flow.view(id)).state is State.CANCELLED
    await flow.advance(7200)
    assert not flow.provider(Channel.EMAIL).sent


async def test_a_template_that_fails_at_send_time_is_a_failure_with_its_reason(flow: Flow) -> None:
    await flow.user()
    await flow.template("odd", {"en": Content(sms=SmsContent("{{ 1 // n }}"))}, n=Variable())
    id = await flow.accept(to={"user_id": "ada"}, template="odd", data={"n": 0})
    await flow.settle()
    seen = await flow.view(id)
    assert (seen.state, seen.reason) == (State.FAILED, "template_error")
    assert seen.deliveries[0].attempts == []


@pytest.mark.parametrize(
    ("data", "text"), [({}, "Hi there!"), ({"name": None}, "Hi there!"), ({"name": "Ada"}, "Hi Ada!")]
)
async def test_optional_variables_may_be_left_out(flow: Flow, data: dict[str, Any], text: str) -> None:
    await flow.user()
    source = "Hi {% if name %}{{ name }}{% else %}there{% endif %}!"
    await flow.template("hi", {"en": Content(sms=SmsContent(source))}, name=Variable(required=False))
    await flow.accept(to={"user_id": "ada"}, template="hi", data=data)
    await flow.settle()
    assert [delivery.content for delivery in flow.provider(Channel.SMS).sent] == [SmsContent(text)]


@pytest.mark.parametrize(("value", "reason"), [(" ", "empty_content"), ("x" * 1_601, "too_long")])
async def test_content_that_no_vendor_takes_fails_before_any_call(flow: Flow, value: str, reason: str) -> None:
    await flow.user()
    await flow.template("echo", {"en": Content(sms=SmsContent("{{ v }}"))}, v=Variable())
    id = await flow.accept(to={"user_id": "ada"}, template="echo", data={"v": value})
    await flow.settle()
    seen = await flow.view(id)
    assert (seen.state, seen.reason) == (State.FAILED, reason)
    assert flow.provider(Channel.SMS).sent == []
    assert seen.deliveries[0].attempts == []


async def test_the_counts_add_up(flow: Flow) -> None:
    await flow.user("ada")
    await flow.user("eve", Preferences(muted=True))
    for user in ("ada", "eve", "nobody"):
        await flow.accept(to={"user_id": user}, content=INBOX)
    await flow.settle()
    tally = await flow.store.history.tally(TENANT)
    whole = {(line.state, line.reason): line.count for line in tally if line.channel is None}
    assert sum(whole.values()) == 3
    assert {state for state, _ in whole} == {State.SENT, State.SUPPRESSED}


def test_contents_name_their_channels() -> None:
    content = Content(push=PushContent("a", "b"), inapp=InappContent("a", "b"))
    assert content.channels() == (Channel.PUSH, Channel.INAPP)
