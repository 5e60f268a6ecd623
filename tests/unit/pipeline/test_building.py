"""Building deliveries: what one takes from its notification and from the person, and the wait that holds it."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from tidings.model import topics
from tidings.model.ids import delivery_id
from tidings.model.notification import (
    Content,
    EmailContent,
    InappContent,
    Notification,
    PushContent,
    Recipient,
    SmsContent,
    TemplateRef,
)
from tidings.model.outcome import Wait
from tidings.model.user import Address, Profile
from tidings.model.vocabulary import Channel, Lane, Priority
from tidings.model.wire import decode_delivery
from tidings.pipeline.runtime.deliveries import build, key_of, wait_for

ID = UUID(int=(1_700_000_000_000 << 80) + (7 << 76) + (2 << 62) + (5 << 8))
MAIL, SMS = Address(Channel.EMAIL, "ada@example.com"), Address(Channel.SMS, "+4930123456")
EVERY = Content(
    EmailContent("Hi", "Hello"), SmsContent("Hello"), PushContent("Hi", "Hello"), InappContent("Hi", "Hello")
)
ADA = Profile(locale="de", timezone="Europe/Berlin", name="Ada")


def asked(to: Recipient | None = None, **fields: Any) -> Notification:
    known: dict[str, Any] = {"content": EVERY, "category": "news", "priority": Priority.BULK, "expires_at": 99}
    return Notification(ID, "shop", to or Recipient(user_id="ada"), 0, **(known | {"incarnation": 3} | fields))


def test_a_delivery_has_what_it_needs_of_its_notification() -> None:
    made = build(asked(), 2, SMS, ADA)
    assert (made.id, made.tenant, made.user_id, made.key) == (delivery_id(ID, 2), "shop", "ada", key_of(asked()))
    assert (made.address, made.category, made.priority, made.expires_at) == (SMS, "news", Priority.BULK, 99)
    assert (made.template, made.incarnation, made.alternatives) == (None, 3, ())
    assert (made.attempt, made.first_attempt, made.step) == (1, 1, 0)


def test_its_tries_are_counted_from_its_attempt() -> None:
    made = build(asked(), 2, SMS, ADA, attempt=4, step=2)
    assert (made.attempt, made.first_attempt, made.step) == (4, 4, 2)


def test_it_has_the_content_of_its_channel_and_of_those_that_may_take_over() -> None:
    assert build(asked(), 2, SMS, None).content == Content(sms=EVERY.sms)
    made = build(asked(), 2, SMS, None, alternatives=[(1, MAIL)])
    assert made.content == Content(sms=EVERY.sms, email=EVERY.email)
    assert made.alternatives == ((1, MAIL),)


def test_only_a_template_needs_the_data() -> None:
    assert build(asked(data=b'{"a":1}'), 2, SMS, None).data == b"{}"
    made = build(asked(content=None, template=TemplateRef("hello", 3), data=b'{"a":1}'), 2, SMS, None)
    assert (made.template, made.content, made.data) == (TemplateRef("hello", 3), None, b'{"a":1}')


@pytest.mark.parametrize(
    ("to", "profile", "expected"),
    [
        (Recipient(user_id="ada"), ADA, ("de", "Europe/Berlin", "Ada")),
        (Recipient(user_id="ada", locale="fr", timezone="Asia/Tokyo"), ADA, ("fr", "Asia/Tokyo", "Ada")),
        (Recipient(phone="+4930123456", locale="fr"), None, ("fr", None, None)),
        (Recipient(phone="+4930123456", timezone="Asia/Tokyo"), None, (None, "Asia/Tokyo", None)),
    ],
)
def test_the_request_says_the_language_and_the_timezone_or_else_the_profile(
    to: Recipient, profile: Profile | None, expected: tuple[str | None, ...]
) -> None:
    made = build(asked(to), 2, SMS, profile)
    assert (made.locale, made.timezone, made.name) == expected


@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("surplus", [False, True])
def test_its_wait_puts_it_into_the_lane_of_its_priority(held: bool, surplus: bool) -> None:
    made = build(asked(), 2, SMS, ADA)
    wait = wait_for(made, 123, held=held, surplus=surplus)
    topic = topics.deliveries(Channel.SMS, Lane.BULK_SURPLUS if surplus else Lane.BULK)
    assert wait == Wait(123, topic, made.key, wait.body, held=held)
    assert decode_delivery(wait.body) == made


def test_unless_said_otherwise_it_is_neither_held_nor_surplus() -> None:
    wait = wait_for(build(asked(), 2, SMS, ADA), 123)
    assert (wait.held, wait.topic) == (False, topics.deliveries(Channel.SMS, Lane.BULK))
