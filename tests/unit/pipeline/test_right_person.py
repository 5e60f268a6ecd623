"""People change between accepting and sending: a delivery goes to the person and the address of that time."""

from __future__ import annotations

import asyncio
import json
import random
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest

from support.flow import TENANT, Flow, takes_it
from tidings.model import topics
from tidings.model.errors import Invalid, Unavailable
from tidings.model.letters import LetterFilter
from tidings.model.sending import Rejected, Retry, SendResult, Uncertain
from tidings.model.tenant import ApiKey, Scope
from tidings.model.user import Address, Cap, Category, Preferences, Profile, QuietHours, Suppression
from tidings.model.vocabulary import Channel, Excess, State
from tidings.pipeline.accept.stage import Accept
from tidings.pipeline.compose.composer import Composer
from tidings.pipeline.compose.recipients import SILENCE_MS, Recipients
from tidings.pipeline.rounds.audit import Audit
from tidings.pipeline.runtime.categories import Categories
from tidings.policy.admission import AdmissionRules
from tidings.roles.worker import audit
from tidings.services.change import Change, decode
from tidings.services.letters import DeadLetters
from tidings.services.recurrences import Recurrences

MAIL = {"email": {"subject": "Hi", "text": "Hello"}}
SMS = {"sms": {"text": "Hello"}}
PUSH = {"push": {"title": "Hi", "body": "Hello"}}
INBOX = {"inapp": {"title": "Hi", "body": "Hello"}}
ADA = {"user_id": "ada"}
HOUR = 3600


@pytest.fixture
async def flow(tmp_path: Path) -> Flow:
    """The flow, with users looked up when a request is accepted."""
    flow = await Flow(tmp_path).start()
    flow.accept_stage = accepting(flow)
    return flow


def accepting(flow: Flow, recipients: Recipients | None = None) -> Accept:
    return Accept(
        flow.queue,
        flow.renderer,
        flow.store.idempotency,
        flow.store.history,
        flow.clock,
        random.Random(3).getrandbits,
        {},
        AdmissionRules(),
        flow.accepted.add,
        recipients=recipients or Recipients(flow.store.users, flow.clock),
    )


async def store(flow: Flow, user_id: str = "ada", preferences: Preferences | None = None, **profile: Any) -> None:
    await flow.store.users.upsert(TENANT, [(user_id, Profile(**profile), preferences)], flow.clock.now())


def tomorrow(flow: Flow) -> str:
    return datetime.fromtimestamp(flow.clock.now() / 1000 + 24 * HOUR, UTC).isoformat()


async def overnight(flow: Flow, content: dict[str, Any], **body: Any) -> UUID:
    """A routed notification, whose deliveries wait for the end of the quiet hours."""
    hour = datetime.fromtimestamp(flow.clock.now() / 1000, UTC).hour * 60
    hours = QuietHours(hour, (hour + 120) % 1440)
    await flow.store.users.set_preferences(TENANT, "ada", Preferences(quiet_hours=hours), flow.clock.now())
    id: UUID = await flow.accept(to=ADA, content=content, **body)
    await flow.settle()
    assert {one.state for one in (await flow.view(id)).deliveries} == {State.DEFERRED}
    return id


def told(flow: Flow, channel: Channel) -> list[str]:
    """The addresses to which the channel's provider has sent."""
    return [one.to for one in flow.provider(channel).sent]


async def outcome(flow: Flow, id: UUID) -> list[tuple[State, str, str]]:
    return [(one.state, one.reason, one.address) for one in (await flow.view(id)).deliveries]


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
        await store(flow, **before)
        id = await overnight(flow, content)
        await store(flow, **after)
        await flow.advance(3 * HOUR)
        assert told(flow, channel) == [goes_to]
        assert await outcome(flow, id) == [(State.SENT, "", goes_to)], "the fact names where it really went"

    @pytest.mark.parametrize(
        ("content", "before"),
        [(MAIL, {"email": "a@example.com"}), (SMS, {"phone": "+4930901820"}), (PUSH, {"devices": ("one",)})],
    )
    async def test_what_waited_for_an_address_that_is_gone_goes_nowhere(
        self, flow: Flow, content: Any, before: Any
    ) -> None:
        await store(flow, **before)
        id = await overnight(flow, content)
        await store(flow)
        await flow.advance(3 * HOUR)
        (former,) = before.values()
        assert await outcome(flow, id) == [
            (State.SUPPRESSED, "address_changed", former if isinstance(former, str) else former[0])
        ]
        assert not any(told(flow, channel) for channel in Channel)

    async def test_a_device_that_changed_hands_gets_only_what_its_new_owner_is_sent(self, flow: Flow) -> None:
        await store(flow, devices=("one", "two"))
        await store(flow, "bob")
        id = await overnight(flow, PUSH)
        await flow.store.users.add_device(TENANT, "bob", "one", 50, flow.clock.now())
        await flow.advance(3 * HOUR)
        assert sorted(await outcome(flow, id)) == [
            (State.SENT, "", "two"),
            (State.SUPPRESSED, "address_changed", "one"),
        ]
        assert told(flow, Channel.PUSH) == ["two"]

    async def test_a_device_that_its_vendor_disowns_meanwhile_is_suppressed_and_not_changed(self, flow: Flow) -> None:
        await store(flow, devices=("one", "two"))
        id = await overnight(flow, PUSH)
        await store(flow, preferences=Preferences(), devices=("one", "two"))
        disowned = Rejected("unregistered", suppress=True)
        flow.provider(Channel.PUSH).answers = lambda out: disowned if out.to == "one" else takes_it(out)
        await flow.accept(to=ADA, content=PUSH)
        await flow.settle()
        await flow.advance(3 * HOUR)
        user = await flow.store.users.get(TENANT, "ada")
        assert user is not None
        assert user.profile.devices == ("two",)
        assert sorted(await outcome(flow, id)) == [
            (State.SENT, "", "two"),
            (State.SUPPRESSED, "address_suppressed", "one"),
        ]
        assert told(flow, Channel.PUSH).count("one") == 1

    async def test_a_suppressed_new_address_is_left_alone(self, flow: Flow) -> None:
        await store(flow, email="a@example.com")
        id = await overnight(flow, MAIL)
        await store(flow, email="Bounced@example.com")
        gone = Suppression(TENANT, Address(Channel.EMAIL, "bounced@example.com"), "bounced", 0)
        await flow.store.users.suppress([gone])
        await flow.advance(3 * HOUR)
        assert await outcome(flow, id) == [(State.SUPPRESSED, "address_suppressed", "Bounced@example.com")]

    async def test_a_fallback_goes_to_where_the_person_is_by_then(self, flow: Flow) -> None:
        await store(flow, email="a@example.com", phone="+4930901820")
        flow.provider(Channel.EMAIL).answers = lambda _: Rejected("no_such_mailbox")
        id = await overnight(flow, MAIL | SMS, channels=["email", "sms"], strategy="first_reachable")
        await store(flow, email="a@example.com", phone="+14155552671")
        await flow.advance(3 * HOUR)
        assert told(flow, Channel.SMS) == ["+14155552671"]
        assert [(state, address) for state, _, address in await outcome(flow, id)] == [
            (State.FAILED, "a@example.com"),
            (State.SENT, "+14155552671"),
        ]

    async def test_where_the_first_address_is_gone_the_next_one_takes_over(self, flow: Flow) -> None:
        await store(flow, email="a@example.com", phone="+4930901820")
        id = await overnight(flow, MAIL | SMS, channels=["email", "sms"], strategy="first_reachable")
        await store(flow, phone="+4930901820")
        await flow.advance(3 * HOUR)
        assert await outcome(flow, id) == [
            (State.SUPPRESSED, "address_changed", "a@example.com"),
            (State.SENT, "", "+4930901820"),
        ]

    async def test_between_two_tries_too(self, flow: Flow) -> None:
        await store(flow, email="a@example.com")
        answers: list[SendResult] = [Retry("busy")]
        takes = flow.provider(Channel.EMAIL).answers
        flow.provider(Channel.EMAIL).answers = lambda one: answers.pop() if answers else takes(one)
        id = await flow.accept(to=ADA, content=MAIL)
        await flow.settle()
        await store(flow, email="b@example.com")
        await flow.advance(HOUR)
        assert told(flow, Channel.EMAIL) == ["a@example.com", "b@example.com"]
        assert await outcome(flow, id) == [(State.SENT, "", "b@example.com")]

    async def test_what_may_be_at_the_former_address_is_in_doubt(self, flow: Flow) -> None:
        flow.provider(Channel.EMAIL).idempotent = True
        await store(flow, email="a@example.com")
        flow.provider(Channel.EMAIL).answers = lambda _: Uncertain("timeout")
        id = await flow.accept(to=ADA, content=MAIL)
        await flow.settle()
        await store(flow, email="b@example.com")
        await flow.advance(HOUR)
        assert told(flow, Channel.EMAIL) == ["a@example.com"]
        assert [(state, address) for state, _, address in await outcome(flow, id)] == [
            (State.UNCERTAIN, "a@example.com")
        ]

    async def test_an_inline_recipient_is_not_looked_up(self, flow: Flow) -> None:
        await store(flow, email="b@example.com")
        id = await flow.accept(to={"email": "a@example.com"}, content=MAIL, send_at=tomorrow(flow))
        await flow.advance(25 * HOUR)
        assert await outcome(flow, id) == [(State.SENT, "", "a@example.com")]


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
        await store(flow, email="a@example.com")
        id = await self.dead(flow, MAIL)
        await store(flow, email="b@example.com")
        assert await self.replay(flow) == {}
        assert told(flow, Channel.EMAIL) == ["b@example.com"]
        assert await outcome(flow, id) == [(State.SENT, "", "b@example.com")]

    async def test_of_an_address_that_is_gone_goes_nowhere(self, flow: Flow) -> None:
        await store(flow, devices=("one",))
        id = await self.dead(flow, PUSH)
        await store(flow, devices=("two",))
        assert await self.replay(flow) == {}
        assert told(flow, Channel.PUSH) == []
        assert await outcome(flow, id) == [(State.SUPPRESSED, "address_changed", "one")]

    async def test_of_a_former_user_is_skipped(self, flow: Flow) -> None:
        await store(flow, email="a@example.com")
        await self.dead(flow, MAIL)
        await flow.store.users.delete(TENANT, "ada")
        await store(flow, email="eve@example.com")
        assert await self.replay(flow) == {"user_deleted": 1}
        assert told(flow, Channel.EMAIL) == []


class TestSuccessors:
    async def again(self, flow: Flow, **profile: Any) -> None:
        """Delete the user and give the id to another person, in the same millisecond."""
        await flow.store.users.delete(TENANT, "ada")
        await store(flow, **({"email": "a@example.com", "phone": "+4930901820", "devices": ("one",)} | profile))

    @pytest.mark.parametrize("content", [MAIL, SMS, PUSH, INBOX, MAIL | INBOX])
    async def test_what_was_accepted_for_the_former_user_goes_nowhere(self, flow: Flow, content: Any) -> None:
        await self.again(flow)
        id = await flow.accept(to=ADA, content=content, send_at=tomorrow(flow))
        at_once = await flow.accept(to=ADA, content=content)
        await self.again(flow)
        await flow.advance(25 * HOUR)
        for one in (id, at_once):
            assert {found[:2] for found in await outcome(flow, one)} == {(State.SUPPRESSED, "user_deleted")}
        assert not any(told(flow, channel) for channel in Channel)

    async def test_what_was_routed_for_the_former_user_goes_nowhere(self, flow: Flow) -> None:
        await self.again(flow)
        id = await overnight(flow, MAIL | INBOX)
        await self.again(flow)
        await flow.advance(3 * HOUR)
        assert {found[:2] for found in await outcome(flow, id)} == {(State.SUPPRESSED, "user_deleted")}
        assert await flow.store.inbox.unread(TENANT, "ada") == 0

    async def test_what_is_sent_to_the_new_user_arrives(self, flow: Flow) -> None:
        await self.again(flow)
        await self.again(flow)
        id = await flow.accept(to=ADA, content=MAIL)
        await flow.settle()
        assert await outcome(flow, id) == [(State.SENT, "", "a@example.com")]

    async def test_while_nobody_has_the_id_there_is_no_such_user(self, flow: Flow) -> None:
        await self.again(flow)
        id = await overnight(flow, MAIL)
        await flow.store.users.delete(TENANT, "ada")
        await flow.advance(3 * HOUR)
        assert await outcome(flow, id) == [(State.SUPPRESSED, "unknown_user", "a@example.com")]

    async def test_a_change_does_not_make_it_the_new_users(self, flow: Flow) -> None:
        await self.again(flow)
        id = await flow.accept(to=ADA, content=MAIL, send_at=tomorrow(flow))
        await flow.settle()
        await self.again(flow)
        change = Change(flow.store.changes, flow.store.users, flow.renderer, flow.clock)
        await change(TENANT, id, decode(b'{"metadata":{"a":1}}'))
        await flow.advance(25 * HOUR)
        assert {found[:2] for found in await outcome(flow, id)} == {(State.SUPPRESSED, "user_deleted")}

    async def test_the_caps_of_the_former_user_are_gone(self, flow: Flow) -> None:
        await flow.store.tenants.put_category(TENANT, Category("news", caps=(Cap(1, HOUR),), excess=Excess.DROP))
        for _ in range(2):
            await self.again(flow)
            sent = [await flow.accept(to=ADA, content=MAIL, category="news") for _ in range(2)]
            await flow.settle()
            assert [(await outcome(flow, id))[0][0] for id in sent] == [State.SENT, State.SUPPRESSED]

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
        assert told(flow, Channel.EMAIL) == ["a@example.com"]
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
        assert told(flow, Channel.EMAIL) == ["a@example.com"]


class TestUnknownUsers:
    async def test_are_told_when_it_is_accepted(self, flow: Flow) -> None:
        with pytest.raises(Invalid) as refused:
            await flow.accept(to=ADA, content=MAIL)
        assert (refused.value.code, refused.value.path) == ("unknown_user", "$.to.user_id")

    async def test_are_told_item_by_item_in_a_batch(self, flow: Flow) -> None:
        await store(flow, email="a@example.com")
        people: list[dict[str, Any]] = [
            ADA,
            {"user_id": "eve"},
            {"email": "b@example.com"},
            {"user_id": "no\nname"},
            {},
        ]
        body = {"notifications": [{"to": to, "content": MAIL} for to in people]}
        results = (await flow.accept_stage.accept_batch(TENANT, json.dumps(body).encode())).results
        codes = [result.code if isinstance(result, Invalid) else "" for result in results]
        assert codes == ["", "unknown_user", "", "invalid_name", "no_recipient"]
        assert isinstance(results[1], Invalid)
        assert results[1].path == "$.notifications[1].to.user_id"

    async def test_of_another_tenant_are_unknown(self, flow: Flow) -> None:
        await flow.store.users.upsert("other", [("ada", Profile(email="a@example.com"), None)], 0)
        with pytest.raises(Invalid, match="there is no user"):
            await flow.accept(to=ADA, content=MAIL)

    async def test_an_answer_is_replayed_though_the_user_is_gone(self, flow: Flow) -> None:
        await store(flow, email="a@example.com")
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

        flow.accept_stage = accepting(flow, Recipients(Away(), flow.clock))  # type: ignore[arg-type]
        await store(flow, email="a@example.com")
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
            await store(flow, name)
        recipients = Recipients(Slow(), flow.clock)  # type: ignore[arg-type]
        found = await asyncio.gather(*(recipients.known(TENANT, [name]) for name in names))
        assert len(asked) == 1
        assert [bool(one) for one in found] == [True, False] * 20
        assert all(set(one or ()) <= {name} for one, name in zip(found, names, strict=True))


class TestZonesAndTimes:
    @pytest.mark.parametrize(("profile", "quiet"), [(None, True), ("America/New_York", False)])
    async def test_quiet_hours_are_the_persons_and_else_as_the_sender_says(
        self, flow: Flow, profile: str | None, quiet: bool
    ) -> None:
        now = datetime.fromtimestamp(flow.clock.now() / 1000, UTC)
        hours = QuietHours((now.hour + 1) * 60, (now.hour + 2) * 60)
        await store(flow, preferences=Preferences(quiet_hours=hours), email="a@example.com", timezone=profile)
        id = await flow.accept(to={**ADA, "timezone": "Africa/Lagos"}, content=MAIL)  # an hour ahead of UTC
        await flow.settle()
        state, reason, _ = (await outcome(flow, id))[0]
        assert (state, reason) == ((State.DEFERRED, "quiet_hours") if quiet else (State.SENT, ""))

    async def test_they_are_asked_with_the_same_zone_when_it_is_sent(self, flow: Flow) -> None:
        await store(flow, email="a@example.com")
        id = await flow.accept(to={**ADA, "timezone": "Africa/Lagos"}, content=MAIL)
        await flow.settle(topics.ROUTE)
        now = datetime.fromtimestamp(flow.clock.now() / 1000, UTC)
        hours = QuietHours((now.hour + 1) * 60, (now.hour + 2) * 60)
        await flow.store.users.set_preferences(TENANT, "ada", Preferences(quiet_hours=hours), flow.clock.now())
        await flow.settle()
        assert (await outcome(flow, id))[0][:2] == (State.DEFERRED, "quiet_hours")

    @pytest.mark.parametrize("backlog", [0, 1, 60, 3 * HOUR])
    async def test_a_backlog_does_not_cost_a_day(self, flow: Flow, backlog: int) -> None:
        await store(flow, email="a@example.com", timezone="Europe/Berlin")
        due = flow.clock.now() + 30_000
        local = datetime.fromtimestamp(due / 1000, UTC).astimezone(ZoneInfo("Europe/Berlin"))
        id = await flow.accept(to=ADA, content=MAIL, send_at_local=local.strftime("%H:%M:%S"))
        await flow.clock.advance(backlog)
        await flow.settle()
        await flow.advance(max(0.0, 30 - backlog))
        assert await outcome(flow, id) == [(State.SENT, "", "a@example.com")]

    async def test_a_time_that_has_just_passed_when_it_is_accepted_is_tomorrows(self, flow: Flow) -> None:
        await store(flow, email="a@example.com")
        passed = datetime.fromtimestamp(flow.clock.now() / 1000 - 1, UTC).strftime("%H:%M:%S")
        id = await flow.accept(to=ADA, content=MAIL, send_at_local=passed)
        await flow.advance(23 * HOUR)
        assert (await flow.view(id)).state is State.DEFERRED
        await flow.advance(HOUR)
        assert (await flow.view(id)).state is State.SENT

    async def test_what_has_expired_in_the_backlog_is_not_sent(self, flow: Flow) -> None:
        await store(flow, email="a@example.com")
        due = datetime.fromtimestamp(flow.clock.now() / 1000 + 30, UTC).strftime("%H:%M:%S")
        until = datetime.fromtimestamp(flow.clock.now() / 1000 + 60, UTC).isoformat()
        id = await flow.accept(to=ADA, content=MAIL, send_at_local=due, expires_at=until)
        await flow.clock.advance(90)
        await flow.settle()
        assert (await flow.view(id)).state is State.EXPIRED


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
        ends = [{found[1] for found in await outcome(flow, id) if found[2]} for id in ids]
        assert ends == [{""}, *[{"capped"}] * (len(spellings) - 1)]

    async def test_other_addresses_and_tags_are_others(self, flow: Flow) -> None:
        await flow.store.tenants.put_category(TENANT, Category("news", caps=(Cap(1, HOUR),)))
        people = ["ada@example.com", "ada+shop@example.com", "a.da@example.com", "ada@example.org"]
        ids = [await flow.accept(to={"email": email}, content=MAIL, category="news") for email in people]
        await flow.settle()
        assert [(await outcome(flow, id))[0][0] for id in ids] == [State.SENT] * 4


class TestCategories:
    async def test_are_read_again_although_the_wall_clock_was_set_back(self, flow: Flow) -> None:
        class Clock:
            wall, real = 10_000_000, 10_000_000

            def now(self) -> int:
                return self.wall

            def elapsed(self) -> int:
                return self.real

            async def sleep(self, seconds: float) -> None:
                self.real += round(seconds * 1000)

        clock = Clock()
        await flow.store.tenants.put_category(TENANT, Category("news", critical=True))
        known = Categories(flow.store.tenants, clock)
        await known.load({TENANT})
        assert known.get(TENANT, "news").critical
        await flow.store.tenants.put_category(TENANT, Category("news"))
        clock.wall -= HOUR * 1000
        clock.real += 1_001
        await known.load({TENANT})
        assert not known.get(TENANT, "news").critical

    async def test_what_changes_counts_for_what_is_sent_a_moment_later(self, flow: Flow) -> None:
        await store(flow, preferences=Preferences(opted_out={"news": ()}), email="a@example.com")
        await flow.store.tenants.put_category(TENANT, Category("news", critical=True))
        await flow.accept(to=ADA, content=MAIL, category="news")
        await flow.settle()
        assert len(told(flow, Channel.EMAIL)) == 1
        await flow.store.tenants.put_category(TENANT, Category("news"))
        await flow.clock.advance(2)
        id = await flow.accept(to=ADA, content=MAIL, category="news")
        await flow.settle()
        assert (await outcome(flow, id))[0][:2] == (State.SUPPRESSED, "opted_out")


class TestLateIds:
    async def late(self, flow: Flow) -> Audit:
        """An occurrence that is sent twenty minutes late, long after the audit has looked at its minute."""
        bits = random.Random(7).getrandbits
        desk = Recurrences(flow.store.recurrences, flow.store.users, Composer(flow.renderer, bits), flow.clock, bits)
        await store(flow, email="a@example.com")
        body = {"rrule": "FREQ=HOURLY;COUNT=1", "request": {"to": ADA, "content": MAIL}}
        due = datetime.fromtimestamp(flow.clock.now() / 1000 + 600, UTC)
        body |= {"start": due.strftime("%Y-%m-%dT%H:%M:%S"), "timezone": "UTC"}
        await desk.create(TENANT, json.dumps(body).encode())
        auditor = audit(flow.parts(), flow.clock)
        for _ in range(30):
            await flow.clock.advance(60)
            assert await auditor.once()
        await flow.accepted.write()
        return auditor

    async def gaps(self, flow: Flow, auditor: Audit) -> list[tuple[int, bool]]:
        for _ in range(12):
            await flow.clock.advance(60)
            await flow.accepted.write()
            assert await auditor.once()
        return [(gap.missing, gap.confirmed) for gap in await flow.store.accounts.gaps()]

    async def test_a_late_occurrence_that_is_lost_is_a_gap(self, flow: Flow) -> None:
        auditor = await self.late(flow)
        await flow.settle("recur")
        lane = flow.broker.lane("requests.normal", topics.ROUTE)
        assert len(lane.waiting) == 1
        lane.clear()
        assert await self.gaps(flow, auditor) == [(1, True)]

    async def test_a_late_occurrence_that_arrives_is_none(self, flow: Flow) -> None:
        auditor = await self.late(flow)
        await flow.settle()
        assert told(flow, Channel.EMAIL) == ["a@example.com"]
        assert await self.gaps(flow, auditor) == []

    async def test_a_late_occurrence_that_is_lost_after_it_was_routed_is_swept(self, flow: Flow) -> None:
        auditor = await self.late(flow)
        await flow.settle(topics.ROUTE)
        await flow.settle(topics.RECORD)
        flow.broker.lane("deliveries.email.normal", topics.DELIVER).clear()
        await self.gaps(flow, auditor)
        await flow.settle()
        assert told(flow, Channel.EMAIL) == ["a@example.com"]
