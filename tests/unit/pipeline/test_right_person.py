"""People change between accepting and sending: a delivery goes to the person and the address of that time."""

from __future__ import annotations

import json
import random
from typing import Any
from uuid import UUID

import pytest

from support.flow import INBOX, MAIL, PUSH, SMS, TENANT, Flow, takes_it
from support.people import ADA, HOUR, overnight, put_user, reached, results, tomorrow
from tidings.model.errors import Invalid
from tidings.model.letters import LetterFilter
from tidings.model.sending import Rejected, Retry, SendResult, Uncertain
from tidings.model.tenant import ApiKey, Scope
from tidings.model.user import Address, Cap, Category, Preferences, Suppression
from tidings.model.vocabulary import Channel, Excess, State
from tidings.pipeline.compose.composer import Composer
from tidings.pipeline.compose.recipients import Recipients
from tidings.services.change import Change, decode
from tidings.services.letters import DeadLetters
from tidings.services.recurrences import Recurrences

pytestmark = pytest.mark.usefixtures("users_are_looked_up")


class TestAddresses:
    @pytest.mark.parametrize(
        ("channel", "content", "before", "after", "goes_to"),
        [
            (Channel.EMAIL, MAIL, {"email": "a@example.com"}, {"email": "b@example.com"}, "b@example.com"),
            (Channel.SMS, SMS, {"phone": "+4930901820"}, {"phone": "+14155552671"}, "+14155552671"),
        ],
    )
    async def test_what_waited_goes_to_the_new_address(
        self, flow: Flow, channel: Channel, content: Any, before: Any, after: Any, goes_to: str
    ) -> None:
        await put_user(flow, **before)
        id = await overnight(flow, content)
        await put_user(flow, **after)
        await flow.advance(3 * HOUR)
        assert reached(flow, channel) == [goes_to]
        assert await results(flow, id) == [(State.SENT, "", goes_to)], "the fact names where it really went"

    @pytest.mark.parametrize(
        ("content", "before"),
        [(MAIL, {"email": "a@example.com"}), (SMS, {"phone": "+4930901820"}), (PUSH, {"devices": ("one",)})],
    )
    async def test_what_waited_for_an_address_that_is_gone_goes_nowhere(
        self, flow: Flow, content: Any, before: Any
    ) -> None:
        await put_user(flow, **before)
        id = await overnight(flow, content)
        await put_user(flow)
        await flow.advance(3 * HOUR)
        (former,) = before.values()
        assert await results(flow, id) == [
            (State.SUPPRESSED, "address_changed", former if isinstance(former, str) else former[0])
        ]
        assert not any(reached(flow, channel) for channel in Channel)

    async def test_a_device_that_changed_hands_gets_only_what_its_new_owner_is_sent(self, flow: Flow) -> None:
        await put_user(flow, devices=("one", "two"))
        await put_user(flow, "bob")
        id = await overnight(flow, PUSH)
        await flow.store.users.add_device(TENANT, "bob", "one", 50, flow.clock.now())
        await flow.advance(3 * HOUR)
        assert sorted(await results(flow, id)) == [
            (State.SENT, "", "two"),
            (State.SUPPRESSED, "address_changed", "one"),
        ]
        assert reached(flow, Channel.PUSH) == ["two"]

    async def test_a_device_that_its_vendor_disowns_meanwhile_is_suppressed_and_not_changed(self, flow: Flow) -> None:
        await put_user(flow, devices=("one", "two"))
        id = await overnight(flow, PUSH)
        await put_user(flow, preferences=Preferences(), devices=("one", "two"))
        disowned = Rejected("unregistered", suppress=True)
        flow.provider(Channel.PUSH).answers = lambda out: disowned if out.to == "one" else takes_it(out)
        await flow.accept(to=ADA, content=PUSH)
        await flow.settle()
        await flow.advance(3 * HOUR)
        user = await flow.store.users.get(TENANT, "ada")
        assert user is not None
        assert user.profile.devices == ("two",)
        assert sorted(await results(flow, id)) == [
            (State.SENT, "", "two"),
            (State.SUPPRESSED, "address_suppressed", "one"),
        ]
        assert reached(flow, Channel.PUSH).count("one") == 1

    async def test_a_suppressed_new_address_is_left_alone(self, flow: Flow) -> None:
        await put_user(flow, email="a@example.com")
        id = await overnight(flow, MAIL)
        await put_user(flow, email="Bounced@example.com")
        gone = Suppression(TENANT, Address(Channel.EMAIL, "bounced@example.com"), "bounced", 0)
        await flow.store.users.suppress([gone])
        await flow.advance(3 * HOUR)
        assert await results(flow, id) == [(State.SUPPRESSED, "address_suppressed", "Bounced@example.com")]

    async def test_a_fallback_goes_to_where_the_person_is_by_then(self, flow: Flow) -> None:
        await put_user(flow, email="a@example.com", phone="+4930901820")
        flow.provider(Channel.EMAIL).answers = lambda _: Rejected("no_such_mailbox")
        id = await overnight(flow, MAIL | SMS, channels=["email", "sms"], strategy="first_reachable")
        await put_user(flow, email="a@example.com", phone="+14155552671")
        await flow.advance(3 * HOUR)
        assert reached(flow, Channel.SMS) == ["+14155552671"]
        assert [(state, address) for state, _, address in await results(flow, id)] == [
            (State.FAILED, "a@example.com"),
            (State.SENT, "+14155552671"),
        ]

    async def test_where_the_first_address_is_gone_the_next_one_takes_over(self, flow: Flow) -> None:
        await put_user(flow, email="a@example.com", phone="+4930901820")
        id = await overnight(flow, MAIL | SMS, channels=["email", "sms"], strategy="first_reachable")
        await put_user(flow, phone="+4930901820")
        await flow.advance(3 * HOUR)
        assert await results(flow, id) == [
            (State.SUPPRESSED, "address_changed", "a@example.com"),
            (State.SENT, "", "+4930901820"),
        ]

    async def test_between_two_tries_too(self, flow: Flow) -> None:
        await put_user(flow, email="a@example.com")
        answers: list[SendResult] = [Retry("busy")]
        takes = flow.provider(Channel.EMAIL).answers
        flow.provider(Channel.EMAIL).answers = lambda delivery: answers.pop() if answers else takes(delivery)
        id = await flow.accept(to=ADA, content=MAIL)
        await flow.settle()
        await put_user(flow, email="b@example.com")
        await flow.advance(HOUR)
        assert reached(flow, Channel.EMAIL) == ["a@example.com", "b@example.com"]
        assert await results(flow, id) == [(State.SENT, "", "b@example.com")]

    async def test_what_may_be_at_the_former_address_is_in_doubt(self, flow: Flow) -> None:
        flow.provider(Channel.EMAIL).idempotent = True
        await put_user(flow, email="a@example.com")
        flow.provider(Channel.EMAIL).answers = lambda _: Uncertain("timeout")
        id = await flow.accept(to=ADA, content=MAIL)
        await flow.settle()
        await put_user(flow, email="b@example.com")
        await flow.advance(HOUR)
        assert reached(flow, Channel.EMAIL) == ["a@example.com"]
        assert [(state, address) for state, _, address in await results(flow, id)] == [
            (State.UNCERTAIN, "a@example.com")
        ]

    async def test_an_inline_recipient_is_not_looked_up(self, flow: Flow) -> None:
        await put_user(flow, email="b@example.com")
        id = await flow.accept(to={"email": "a@example.com"}, content=MAIL, send_at=tomorrow(flow))
        await flow.advance(25 * HOUR)
        assert await results(flow, id) == [(State.SENT, "", "a@example.com")]


class TestReplays:
    async def dead(self, flow: Flow, content: Any) -> UUID:
        for channel in (Channel.EMAIL, Channel.PUSH):
            flow.provider(channel).answers = lambda _: Rejected("refused")
        id: UUID = await flow.accept(to=ADA, content=content)
        await flow.settle()
        for channel in (Channel.EMAIL, Channel.PUSH):
            flow.provider(channel).answers = takes_it
            flow.provider(channel).sent.clear()
        return id

    async def replay(self, flow: Flow) -> dict[str, int]:
        desk = DeadLetters(flow.store, flow.store, flow.clock, random.Random(7).getrandbits)
        key = ApiKey("k", TENANT, "tk_", b"", tuple(Scope))
        replay, _ = await desk.replay(key, LetterFilter(), 50, None, b"")
        await flow.advance(60)
        return dict((await desk.known(TENANT, replay.id)).skipped)

    async def test_goes_to_the_present_address(self, flow: Flow) -> None:
        await put_user(flow, email="a@example.com")
        id = await self.dead(flow, MAIL)
        await put_user(flow, email="b@example.com")
        assert await self.replay(flow) == {}
        assert reached(flow, Channel.EMAIL) == ["b@example.com"]
        assert await results(flow, id) == [(State.SENT, "", "b@example.com")]

    async def test_of_an_address_that_is_gone_goes_nowhere(self, flow: Flow) -> None:
        await put_user(flow, devices=("one",))
        id = await self.dead(flow, PUSH)
        await put_user(flow, devices=("two",))
        assert await self.replay(flow) == {}
        assert reached(flow, Channel.PUSH) == []
        assert await results(flow, id) == [(State.SUPPRESSED, "address_changed", "one")]

    async def test_of_a_former_user_is_skipped(self, flow: Flow) -> None:
        await put_user(flow, email="a@example.com")
        await self.dead(flow, MAIL)
        await flow.store.users.delete(TENANT, "ada")
        await put_user(flow, email="eve@example.com")
        assert await self.replay(flow) == {"user_deleted": 1}
        assert reached(flow, Channel.EMAIL) == []


class TestSuccessors:
    async def again(self, flow: Flow, **profile: Any) -> None:
        """Delete the user and give the id to another person, in the same millisecond."""
        await flow.store.users.delete(TENANT, "ada")
        await put_user(flow, **({"email": "a@example.com", "phone": "+4930901820", "devices": ("one",)} | profile))

    @pytest.mark.parametrize("content", [MAIL, SMS, PUSH, INBOX, MAIL | INBOX])
    async def test_what_was_accepted_for_the_former_user_goes_nowhere(self, flow: Flow, content: Any) -> None:
        await self.again(flow)
        id = await flow.accept(to=ADA, content=content, send_at=tomorrow(flow))
        at_once = await flow.accept(to=ADA, content=content)
        await self.again(flow)
        await flow.advance(25 * HOUR)
        for sent in (id, at_once):
            assert {result[:2] for result in await results(flow, sent)} == {(State.SUPPRESSED, "user_deleted")}
        assert not any(reached(flow, channel) for channel in Channel)

    async def test_what_was_routed_for_the_former_user_goes_nowhere(self, flow: Flow) -> None:
        await self.again(flow)
        id = await overnight(flow, MAIL | INBOX)
        await self.again(flow)
        await flow.advance(3 * HOUR)
        assert {result[:2] for result in await results(flow, id)} == {(State.SUPPRESSED, "user_deleted")}
        assert await flow.store.inbox.unread(TENANT, "ada") == 0

    async def test_what_is_sent_to_the_new_user_arrives(self, flow: Flow) -> None:
        await self.again(flow)
        await self.again(flow)
        id = await flow.accept(to=ADA, content=MAIL)
        await flow.settle()
        assert await results(flow, id) == [(State.SENT, "", "a@example.com")]

    async def test_while_nobody_has_the_id_there_is_no_such_user(self, flow: Flow) -> None:
        await self.again(flow)
        id = await overnight(flow, MAIL)
        await flow.store.users.delete(TENANT, "ada")
        await flow.advance(3 * HOUR)
        assert await results(flow, id) == [(State.SUPPRESSED, "unknown_user", "a@example.com")]

    async def test_a_change_does_not_make_it_the_new_users(self, flow: Flow) -> None:
        await self.again(flow)
        id = await flow.accept(to=ADA, content=MAIL, send_at=tomorrow(flow))
        await flow.settle()
        await self.again(flow)
        change = Change(flow.store.changes, flow.store.users, flow.renderer, flow.clock)
        await change(TENANT, id, decode(b'{"metadata":{"a":1}}'))
        await flow.advance(25 * HOUR)
        assert {result[:2] for result in await results(flow, id)} == {(State.SUPPRESSED, "user_deleted")}

    async def test_the_caps_of_the_former_user_are_gone(self, flow: Flow) -> None:
        await flow.store.tenants.put_category(TENANT, Category("news", caps=(Cap(1, HOUR),), excess=Excess.DROP))
        for _ in range(2):
            await self.again(flow)
            sent = [await flow.accept(to=ADA, content=MAIL, category="news") for _ in range(2)]
            await flow.settle()
            assert [(await results(flow, id))[0][0] for id in sent] == [State.SENT, State.SUPPRESSED]

    async def days(self, flow: Flow, many: int) -> None:
        for _ in range(many * 48):
            await flow.advance(HOUR / 2)

    async def test_a_recurrence_ends_with_its_user(self, flow: Flow) -> None:
        bits = random.Random(7).getrandbits
        composer = Composer(flow.renderer, bits, recipients=Recipients(flow.store.users, flow.clock))
        desk = Recurrences(flow.store.recurrences, flow.store.users, composer, flow.clock, bits)
        body = {"rrule": "FREQ=DAILY", "start": "2023-11-01T09:00", "request": {"to": ADA, "content": MAIL}}
        with pytest.raises(Invalid, match="there is no user 'ada'") as refused:
            await desk.create(TENANT, json.dumps(body).encode())
        assert (refused.value.code, refused.value.path) == ("unknown_user", "$.request.to.user_id")
        await self.again(flow)
        made = await desk.create(TENANT, json.dumps(body).encode())
        await self.days(flow, 1)
        assert reached(flow, Channel.EMAIL) == ["a@example.com"]
        await flow.store.users.delete(TENANT, "ada")
        await self.days(flow, 1)
        seen = await desk.get(TENANT, made.id)
        assert seen.progress.problem.startswith("unknown_user")
        assert seen.progress.due is not None
        await self.again(flow)
        change = json.dumps({"request": {"to": ADA, "content": SMS}}).encode()
        with pytest.raises(Invalid) as refused:
            await desk.change(TENANT, made.id, change)
        assert refused.value.code == "other_recipient"
        await self.days(flow, 2)
        seen = await desk.get(TENANT, made.id)
        assert seen.progress.problem.startswith("user_deleted")
        assert seen.progress.due is None
        assert reached(flow, Channel.EMAIL) == ["a@example.com"]
