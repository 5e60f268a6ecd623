"""Whom a request names: users that nobody knows, and one address in several spellings."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from support.flow import MAIL, SMS, TENANT, Flow
from support.people import ADA, HOUR, put_user, results
from tidings.model.errors import Invalid, Unavailable
from tidings.model.user import Cap, Category, Profile
from tidings.model.vocabulary import State
from tidings.pipeline.compose.recipients import SILENCE_MS, Recipients

pytestmark = pytest.mark.usefixtures("users_are_looked_up")


class TestUnknownUsers:
    async def test_are_told_when_it_is_accepted(self, flow: Flow) -> None:
        with pytest.raises(Invalid) as refused:
            await flow.accept(to=ADA, content=MAIL)
        assert (refused.value.code, refused.value.path) == ("unknown_user", "$.to.user_id")

    async def test_are_told_item_by_item_in_a_batch(self, flow: Flow) -> None:
        await put_user(flow, email="a@example.com")
        people: list[dict[str, Any]] = [
            ADA,
            {"user_id": "eve"},
            {"email": "b@example.com"},
            {"user_id": "no\nname"},
            {},
        ]
        body = {"notifications": [{"to": to, "content": MAIL} for to in people]}
        answers = (await flow.accept_stage.accept_batch(TENANT, json.dumps(body).encode())).results
        codes = [answer.code if isinstance(answer, Invalid) else "" for answer in answers]
        assert codes == ["", "unknown_user", "", "invalid_name", "no_recipient"]
        assert isinstance(answers[1], Invalid)
        assert answers[1].path == "$.notifications[1].to.user_id"

    async def test_of_another_tenant_are_unknown(self, flow: Flow) -> None:
        await flow.store.users.upsert("other", [("ada", Profile(email="a@example.com"), None)], 0)
        with pytest.raises(Invalid, match="there is no user"):
            await flow.accept(to=ADA, content=MAIL)

    async def test_an_answer_is_replayed_though_the_user_is_gone(self, flow: Flow) -> None:
        await put_user(flow, email="a@example.com")
        first = await flow.accept("key", to=ADA, content=MAIL)
        await flow.store.users.delete(TENANT, "ada")
        assert await flow.accept("key", to=ADA, content=MAIL) == first

    async def test_a_store_that_is_away_refuses_nobody(self, flow: Flow) -> None:
        """Accepted without a look-up; the incarnation is noted when it is routed."""
        asked = []

        class Away:
            async def known(self, tenant: str, user_ids: Any) -> dict[str, int]:
                asked.append((tenant, tuple(user_ids)))
                raise Unavailable("gone")

        flow.look_users_up(Recipients(Away(), flow.clock))  # type: ignore[arg-type]
        await put_user(flow, email="a@example.com")
        first = await flow.accept(to=ADA, content=MAIL)
        await flow.accept(to={"user_id": "eve"}, content=MAIL)
        assert asked == [(TENANT, ("ada",))], "it is not asked again at once"
        await flow.settle()
        record = await flow.store.history.get(TENANT, first)
        assert record is not None
        assert record.notification.incarnation is not None
        await flow.clock.advance(SILENCE_MS / 1000)
        await flow.accept(to={"user_id": "eve"}, content=MAIL)
        assert len(asked) == 2

    async def test_concurrent_requests_share_a_question(self, flow: Flow) -> None:
        asked: list[list[str]] = []
        people = flow.store.users

        class Slow:
            async def known(self, tenant: str, user_ids: Any) -> Any:
                asked.append(list(user_ids))
                await asyncio.sleep(0)
                return await people.known(tenant, user_ids)

        names = [f"user-{number}" for number in range(40)]
        for name in names[::2]:
            await put_user(flow, name)
        recipients = Recipients(Slow(), flow.clock)  # type: ignore[arg-type]
        answers = await asyncio.gather(*(recipients.known(TENANT, [name]) for name in names))
        assert len(asked) == 1
        assert [bool(answer) for answer in answers] == [True, False] * 20
        assert all(set(answer or ()) <= {name} for answer, name in zip(answers, names, strict=True))


class TestSpellings:
    @pytest.mark.parametrize(
        "spellings",
        [
            [{"email": "ada@example.com"}, {"email": "Ada@Example.COM"}, {"email": " ADA@example.com\u200b"}],
            [{"email": "ada@bücher.example"}, {"email": "ADA@xn--bcher-kva.example"}],
            [{"phone": "+4930901820"}, {"phone": "+49 30/90-1820"}, {"phone": "\u202d+4930901820\u202c"}],
            [{"phone": "+525512345678"}, {"phone": "+52 1 55 1234 5678"}],
        ],
    )
    async def test_an_inline_address_has_one_cap_in_all_its_spellings(
        self, flow: Flow, spellings: list[dict[str, str]]
    ) -> None:
        await flow.store.tenants.put_category(TENANT, Category("news", caps=(Cap(1, HOUR),)))
        ids = [await flow.accept(to=to, content=MAIL | SMS, category="news") for to in spellings]
        await flow.settle()
        ends = [{result[1] for result in await results(flow, id) if result[2]} for id in ids]
        assert ends == [{""}, *[{"capped"}] * (len(spellings) - 1)]

    async def test_other_addresses_and_tags_are_others(self, flow: Flow) -> None:
        await flow.store.tenants.put_category(TENANT, Category("news", caps=(Cap(1, HOUR),)))
        people = ["ada@example.com", "ada+shop@example.com", "a.da@example.com", "ada@example.org"]
        ids = [await flow.accept(to={"email": email}, content=MAIL, category="news") for email in people]
        await flow.settle()
        assert [(await results(flow, id))[0][0] for id in ids] == [State.SENT] * 4
