"""What a composer looks up before it makes notifications of requests, and what it refuses."""

from __future__ import annotations

import random
from collections.abc import Collection
from typing import Any

import msgspec
import pytest

from support.flow import TENANT, Flow
from tidings.model.errors import Invalid
from tidings.model.notification import Content, EmailContent, Notification, SmsContent
from tidings.model.template import Variable
from tidings.model.vocabulary import Channel
from tidings.pipeline.compose import requests
from tidings.pipeline.compose.composer import Composer


class Everybody:
    """Knows everybody, and notes who was looked up."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, set[str]]] = []

    async def known(self, tenant: str, user_ids: Collection[str]) -> dict[str, int]:
        self.asked.append((tenant, set(user_ids)))
        return dict.fromkeys(user_ids, 1)


async def test_only_ids_that_a_store_can_hold_are_looked_up(flow: Flow) -> None:
    recipients = Everybody()
    bits = random.Random(1).getrandbits
    composer = Composer(flow.renderer, bits, recipients=recipients)  # type: ignore[arg-type]
    ids = ["ada", "bob", "ada", "a\0b", "", "x" * 201, None]
    asked = [requests.NotificationRequest(to=requests.RecipientRequest(user_id=id)) for id in ids]
    assert await composer.known(TENANT, asked) == {"ada": 1, "bob": 1}
    assert recipients.asked == [(TENANT, {"ada", "bob"})]
    assert await Composer(flow.renderer, bits).known(TENANT, asked) is None


async def composed(flow: Flow, size: int = 100, known: dict[str, int] | None = None, **body: Any) -> Notification:
    given = {"to": {"user_id": "ada"}} | ({} if "template" in body else {"content": {"sms": {"text": "Hello"}}}) | body
    composer = Composer(flow.renderer, random.Random(1).getrandbits)
    request = requests.decode_one(msgspec.json.encode(given))
    return await composer.compose(TENANT, request, size, flow.clock.now(), known=known)


async def refusal(flow: Flow, **more: Any) -> tuple[str, str]:
    with pytest.raises(Invalid) as refused:
        await composed(flow, **more)
    return refused.value.code, refused.value.path


async def test_a_request_has_a_largest_size(flow: Flow) -> None:
    await composed(flow, requests.LARGEST_BYTES)
    assert await refusal(flow, size=requests.LARGEST_BYTES + 1) == ("too_large", "$")


async def test_a_notification_is_for_the_user_who_has_the_id_now_and_for_no_unknown_one(flow: Flow) -> None:
    assert (await composed(flow, known={"ada": 7, "bob": 8})).incarnation == 7
    assert (await composed(flow, known=None)).incarnation is None
    assert (await composed(flow, known={}, to={"phone": "+4915123456789"})).incarnation is None
    assert await refusal(flow, known={"bob": 8}) == ("unknown_user", "$.to.user_id")


async def test_a_template_needs_only_what_the_channels_of_the_request_show(flow: Flow) -> None:
    content = Content(sms=SmsContent("Hello"), email=EmailContent("Hi {{ name }}", "Hello"))
    await flow.template("hello", {"en": content}, name=Variable())
    body: dict[str, Any] = {"template": "hello", "data": {"name": ["not", "printable"]}}
    assert (await composed(flow, channels=["sms"], **body)).channels == (Channel.SMS,)
    assert await refusal(flow, channels=["email"], **body) == ("not_printable", "$.data.name")
    assert await refusal(flow, **body) == ("not_printable", "$.data.name")


async def test_a_field_that_is_null_has_its_default(flow: Flow) -> None:
    names = ["channels", "strategy", "category", "priority", "send_at", "expires_at", "metadata", "data"]
    nulls: dict[str, Any] = dict.fromkeys(names)
    assert await composed(flow, **nulls) == await composed(flow)
    assert (await composed(flow)).category == "transactional"
    assert (await composed(flow, category="news")).category == "news"
