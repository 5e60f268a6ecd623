"""Recurrences through the whole flow, with a virtual clock."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from support.flow import TENANT, Flow
from support.queues import depth
from tidings.model import topics
from tidings.model.errors import Conflict, Invalid, LeaseLost, NotFound, Unavailable
from tidings.model.history import HistoryFilter
from tidings.model.ids import bucket_of, stable_bucket
from tidings.model.notification import Content, SmsContent
from tidings.model.recurrence import Recurrence
from tidings.model.template import Variable
from tidings.model.user import Profile
from tidings.model.vocabulary import Channel, Priority, State
from tidings.model.wire import encode
from tidings.pipeline.compose.composer import Composer
from tidings.pipeline.schedule import recur
from tidings.policy import recurring
from tidings.policy.recurring import occurrence_id
from tidings.ports.queue import Item
from tidings.ports.recurrences import Moved
from tidings.report.notifications import NotificationView, Reports
from tidings.services.recurrences import Recurrences

SMS = {"sms": {"text": "Hello"}}
REQUEST = {"to": {"user_id": "ada"}, "content": SMS}
HOUR = 3600


def utc(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


async def at(flow: Flow, text: str) -> None:
    """Advance the clock to a time in UTC, stopping whenever an occurrence is due."""
    until = utc(text)
    while (due := await flow.store.recurrences.next_due()) is not None and due < until:
        await flow.advance(max(0.0, due - flow.clock.now()) / 1000)
        if flow.clock.now() >= until:
            break
    await flow.advance((until - flow.clock.now()) / 1000)


def service(flow: Flow) -> Recurrences:
    bits = random.Random(7).getrandbits
    return Recurrences(flow.store.recurrences, flow.store.users, Composer(flow.renderer, bits), flow.clock, bits)


async def create(flow: Flow, **more: Any) -> Recurrence:
    body = {"rrule": "FREQ=DAILY", "start": "2026-03-27T09:00", "timezone": "Europe/Berlin", "request": REQUEST} | more
    return await service(flow).create(TENANT, json.dumps(body).encode())


async def change(flow: Flow, recurrence: Recurrence, **body: Any) -> Recurrence:
    return await service(flow).change(TENANT, recurrence.id, json.dumps(body).encode())


async def counted(flow: Flow) -> int:
    """How many notifications the accounts have counted."""
    await flow.accepted.write()
    return sum(one.count for one in await flow.store.accounts.accepted(0, 1 << 40))


async def history(flow: Flow) -> Sequence[NotificationView]:
    """Every notification, newest first."""
    page, _ = await Reports(flow.store.history, flow.store.days, flow.store.schedule, flow.clock).list(
        TENANT, HistoryFilter(), None, 100
    )
    return page


def sent(flow: Flow) -> int:
    return len(flow.provider(Channel.SMS).sent)


async def ready(flow: Flow, timezone: str | None = "Europe/Berlin") -> None:
    await at(flow, "2026-03-26T12:00")
    await flow.user(timezone=timezone)


async def test_expensive_rules_that_are_due_together_are_moved_in_slices(
    flow: Flow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other work runs in between, and another tenant's recurrence is sent with the first slice."""
    await ready(flow)
    await flow.store.users.upsert("bank", [("ada", Profile(phone="+4915199999999"), None)], flow.clock.now())
    recurrences = service(flow)
    body = {"rrule": "FREQ=DAILY", "start": "2026-03-27T09:00", "timezone": "Europe/Berlin", "request": REQUEST}
    for tenant in [TENANT] * 24 + ["bank"]:
        await recurrences.create(tenant, json.dumps(body).encode())
    costly, put, batches = recurring.step, flow.queue.put, list[list[str]]()

    def slow(*arguments: Any, **options: Any) -> Any:
        flow.clock._now += 15
        return costly(*arguments, **options)

    async def noted(items: Sequence[Item]) -> None:
        batches.append([item.key.partition("/")[0] for item in items])
        await put(items)

    monkeypatch.setattr(recur, "step", slow)
    monkeypatch.setattr(flow.queue, "put", noted)
    await flow.clock.advance((utc("2026-03-27T08:00") - flow.clock.now()) / 1000)
    await flow.settle(only="nobody")
    fired = [batch for batch in batches if batch]
    assert max(len(batch) for batch in fired) <= 2, "20 ms, and one that was begun"
    assert "bank" in fired[0]
    assert sum(len(batch) for batch in fired) == 25


async def test_a_daily_recurrence_is_sent_at_nine_across_the_jump_of_the_clock(flow: Flow) -> None:
    await ready(flow)
    made = await create(flow)
    expected = ["2026-03-27T08:00", "2026-03-28T08:00", "2026-03-29T07:00", "2026-03-30T07:00"]
    assert [coming.due for coming in await service(flow).upcoming(made, 4)] == [utc(text) for text in expected]
    for number, text in enumerate(expected):
        await flow.clock.advance((utc(text) - flow.clock.now()) / 1000 - 0.001)
        await flow.settle()
        assert sent(flow) == number
        await flow.advance(0.001)
        assert sent(flow) == number + 1
    page = await history(flow)
    assert [view.created_at for view in reversed(page)] == [f"{text}:00.000Z" for text in expected]
    assert {view.state for view in page} == {State.SENT}
    assert await counted(flow) == 4
    known = await service(flow).get(TENANT, made.id)
    assert (known.progress.fired_at, known.progress.skipped, known.progress.problem) == (utc(expected[-1]), 0, "")


async def test_an_occurrence_is_a_notification_of_the_users_bucket(flow: Flow) -> None:
    await ready(flow)
    made = await create(flow)
    await at(flow, "2026-03-27T09:00")
    [out] = flow.provider(Channel.SMS).sent
    assert bucket_of(out.id) == bucket_of(made.id) == stable_bucket(TENANT, "ada")


@pytest.mark.parametrize("crash", ["before the put", "between put and settle"])
async def test_a_crash_gives_the_same_notification_again_and_never_a_second(
    flow: Flow, crash: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ready(flow)
    await create(flow)
    await flow.clock.advance((utc("2026-03-27T08:00") - flow.clock.now()) / 1000)

    async def dies(*_: object) -> None:
        raise Unavailable("killed here")

    with monkeypatch.context() as patch:
        if crash == "before the put":
            patch.setattr(flow.queue, "put", dies)
        else:
            patch.setattr(flow.store.recurrences, "settle", dies)
        with pytest.raises(Unavailable):
            await flow.settle()
    await flow.settle()
    assert sent(flow) == (0 if crash == "before the put" else 1)
    await flow.advance(31)  # the lease ends, and the occurrence that comes back may be a copy
    await flow.advance(HOUR)
    assert sent(flow) == 1
    await flow.advance(HOUR)
    assert sent(flow) == 1
    page = await history(flow)
    assert len(page) == 1
    # A repeated notification may have been counted already: counting too few is safe.
    assert await counted(flow) == (0 if crash == "before the put" else 1)


async def test_after_an_outage_the_latest_comes_once_if_it_is_young_enough(flow: Flow) -> None:
    await ready(flow)
    young = await create(flow, rrule="FREQ=HOURLY", name="young", grace_seconds=1800)
    await flow.advance(5 * 24 * HOUR + 600)  # everything was down for five days
    assert sent(flow) == 1
    known = await service(flow).get(TENANT, young.id)
    assert known.progress.skipped > 90
    await flow.advance(HOUR)
    assert sent(flow) == 2


async def test_after_an_outage_an_occurrence_that_is_too_old_is_skipped_and_reported(flow: Flow) -> None:
    await ready(flow)
    made = await create(flow)
    await flow.advance(27 * HOUR)  # to 15:00 UTC of the next day: seven hours late
    assert sent(flow) == 0
    known = await service(flow).get(TENANT, made.id)
    assert known.progress.skipped == 1
    assert "missed" in known.progress.problem
    await at(flow, "2026-03-28T09:00")
    assert sent(flow) == 1
    assert (await service(flow).get(TENANT, made.id)).progress.problem == ""


async def test_a_recurrence_follows_its_users_timezone(flow: Flow) -> None:
    await ready(flow)
    made = await create(flow, timezone="user")
    assert made.progress.due == utc("2026-03-27T08:00")
    profile = Profile(phone="+4915123456789", timezone="America/New_York")
    await flow.store.users.upsert(TENANT, [("ada", profile, None)], flow.clock.now())
    await at(flow, "2026-03-27T08:00")
    assert sent(flow) == 0
    await at(flow, "2026-03-27T12:59")
    assert sent(flow) == 0
    await at(flow, "2026-03-27T13:00")
    assert sent(flow) == 1
    await at(flow, "2026-03-28T12:59")
    assert sent(flow) == 1


async def test_a_paused_recurrence_sends_nothing_and_resumes_with_the_next_occurrence(flow: Flow) -> None:
    await ready(flow)
    made = await create(flow)
    paused = await service(flow).pause(TENANT, made.id)
    assert (await service(flow).pause(TENANT, made.id)) == paused
    assert await service(flow).upcoming(paused, 3) == []
    await at(flow, "2026-03-28T12:00")
    assert sent(flow) == 0
    resumed = await service(flow).resume(TENANT, made.id)
    assert (await service(flow).resume(TENANT, made.id)) == resumed
    assert resumed.progress.due == utc("2026-03-29T07:00")
    await at(flow, "2026-03-29T08:00")
    assert sent(flow) == 1
    assert (await service(flow).get(TENANT, made.id)).progress.skipped == 0


async def test_a_deleted_recurrence_sends_nothing(flow: Flow) -> None:
    await ready(flow)
    made = await create(flow)
    await service(flow).delete(TENANT, made.id)
    await flow.advance(5 * 24 * HOUR)
    assert sent(flow) == 0
    with pytest.raises(NotFound):
        await service(flow).get(TENANT, made.id)
    with pytest.raises(NotFound):
        await service(flow).delete(TENANT, made.id)


async def test_a_new_rule_counts_from_now_and_a_new_name_changes_no_time(flow: Flow) -> None:
    await ready(flow)
    made = await create(flow)
    named = await change(flow, made, name="every morning")
    assert (named.name, named.progress, named.revision) == ("every morning", made.progress, 2)
    weekly = await change(flow, made, rrule="FREQ=WEEKLY;BYDAY=SU")
    assert weekly.progress.due == utc("2026-03-29T07:00")
    assert weekly.name == "every morning"
    paused = await service(flow).pause(TENANT, made.id)
    assert (await change(flow, paused, rrule="FREQ=DAILY")).progress.due is None


async def test_an_occurrence_uses_the_template_that_is_published_when_it_is_sent(flow: Flow) -> None:
    await ready(flow)
    await flow.template("hello", {"en": Content(sms=SmsContent("Hello {{ name }}"))}, name=Variable())
    await create(flow, request={"to": {"user_id": "ada"}, "template": "hello", "data": {"name": "Ada"}})
    await at(flow, "2026-03-27T09:00")
    await flow.template("hello", {"en": Content(sms=SmsContent("Good day {{ name }}"))}, name=Variable())
    await at(flow, "2026-03-28T09:00")
    texts = [out.content.text for out in flow.provider(Channel.SMS).sent if isinstance(out.content, SmsContent)]
    assert texts == ["Hello Ada", "Good day Ada"]


async def test_a_recurrence_whose_occurrence_cannot_be_sent_says_why_and_goes_on(flow: Flow) -> None:
    await ready(flow)
    await flow.template("hello", {"en": Content(sms=SmsContent("Hello {{ name }}"))}, name=Variable())
    made = await create(flow, request={"to": {"user_id": "ada"}, "template": "hello", "data": {"name": "Ada"}})
    await flow.template(
        "hello", {"en": Content(sms=SmsContent("{{ name }} {{ more }}"))}, name=Variable(), more=Variable()
    )
    await at(flow, "2026-03-27T09:00")
    known = await service(flow).get(TENANT, made.id)
    assert (known.progress.skipped, known.progress.fired_at) == (1, None)
    assert known.progress.problem == "missing_variables: the template needs more"
    assert known.progress.due == utc("2026-03-28T08:00")
    await change(flow, made, request={"to": {"user_id": "ada"}, "template": "hello", "data": {"name": "A", "more": 1}})
    await at(flow, "2026-03-28T09:00")
    assert sent(flow) == 1
    assert (await service(flow).get(TENANT, made.id)).progress.problem == ""


async def test_a_recurrence_ends(flow: Flow) -> None:
    await ready(flow)
    made = await create(flow, rrule="FREQ=DAILY;COUNT=2")
    await flow.user("bob", timezone="Europe/Berlin")
    await at(flow, "2026-04-05T00:00")
    assert sent(flow) == 2
    assert (await service(flow).get(TENANT, made.id)).progress.due is None
    assert await flow.store.recurrences.next_due() is None


async def test_a_change_while_it_is_being_sent_sends_it_once(flow: Flow, monkeypatch: pytest.MonkeyPatch) -> None:
    await ready(flow)
    made = await create(flow)
    settle = flow.store.recurrences.settle

    async def changed_first(moved: list[Moved]) -> None:
        await change(flow, made, name="changed meanwhile")
        await settle(moved)

    monkeypatch.setattr(flow.store.recurrences, "settle", changed_first)
    await at(flow, "2026-03-27T09:00")
    assert sent(flow) == 1
    known = await service(flow).get(TENANT, made.id)
    assert (known.name, known.progress.due) == ("changed meanwhile", utc("2026-03-28T08:00"))


async def test_the_recipient_of_a_recurrence_cannot_change(flow: Flow) -> None:
    await ready(flow)
    made = await create(flow)
    with pytest.raises(Invalid) as refused:
        await change(flow, made, request={"to": {"user_id": "bob"}, "content": SMS})
    assert (refused.value.code, refused.value.path) == ("other_recipient", "$.request.to")


async def test_a_change_that_always_comes_too_late_is_a_conflict(flow: Flow, monkeypatch: pytest.MonkeyPatch) -> None:
    await ready(flow)
    made = await create(flow)

    async def never(*_: object, **__: object) -> bool:
        return False

    monkeypatch.setattr(flow.store.recurrences, "replace", never)
    with pytest.raises(Conflict, match="at the same time"):
        await change(flow, made, name="x")


@pytest.mark.parametrize(
    ("body", "code", "path"),
    [
        ({"rrule": "every day"}, "invalid_rrule", "$.rrule"),
        ({"rrule": "FREQ=SECONDLY"}, "invalid_rrule", "$.rrule"),
        ({"rrule": "FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=30"}, "never_occurs", "$.rrule"),
        ({"rrule": "FREQ=DAILY;UNTIL=20260101T000000"}, "never_occurs", "$.rrule"),
        ({"start": "2025-01-01T09:00", "rrule": "FREQ=DAILY;COUNT=3"}, "never_occurs", "$.rrule"),
        ({"start": "09:00"}, "invalid_local_time", "$.start"),
        ({"start": "2026-03-27T09:00+01:00"}, "invalid_local_time", "$.start"),
        ({"start": "2099-01-01T09:00"}, "too_far", "$.start"),
        ({"timezone": "Berlin"}, "invalid_timezone", "$.timezone"),
        ({"name": "a\nb"}, "invalid_name", "$.name"),
        ({"grace_seconds": -1}, "wrong_type", "$.grace_seconds"),
        ({"grace_seconds": 10**9}, "wrong_type", "$.grace_seconds"),
        ({"paused": True}, "unknown_field", "$.paused"),
        ({"request": {"to": {}, "content": SMS}}, "no_recipient", "$.request.to"),
        ({"request": {"to": {"user_id": "a"}}}, "content_or_template", "$.request"),
        ({"request": {"to": {"user_id": "a"}, "template": "none"}}, "unknown_template", "$.request.template"),
        ({"request": REQUEST | {"send_at": "2026-05-04T09:00:00Z"}}, "not_in_recurrence", "$.request.send_at"),
        ({"request": REQUEST | {"send_at_local": "09:00"}}, "not_in_recurrence", "$.request.send_at_local"),
        ({"request": REQUEST | {"expires_at": "2026-05-04T09:00:00Z"}}, "not_in_recurrence", "$.request.expires_at"),
        ({"request": REQUEST | {"colour": 1}}, "unknown_field", "$.request.colour"),
        ({"request": "x"}, "wrong_type", "$.request"),
    ],
)
async def test_an_invalid_recurrence_is_refused_when_it_is_created_and_changed(
    flow: Flow, body: Mapping[str, Any], code: str, path: str
) -> None:
    await ready(flow)
    with pytest.raises(Invalid) as refused:
        await create(flow, **body)
    assert (refused.value.code, refused.value.path) == (code, path)
    assert await flow.store.recurrences.list(TENANT, None, 10) == []
    if "COUNT" in str(body) or "UNTIL" in str(body):
        return  # a change may end it
    made = await create(flow)
    with pytest.raises(Invalid) as refused:
        await change(flow, made, **body)
    assert (refused.value.code, refused.value.path) == (code, path)
    assert await service(flow).get(TENANT, made.id) == made


async def test_a_change_of_nothing_is_refused(flow: Flow) -> None:
    await ready(flow)
    with pytest.raises(Invalid) as refused:
        await change(flow, await create(flow))
    assert refused.value.code == "nothing_to_change"


async def test_an_occurrence_is_marked_only_if_it_may_be_a_copy(flow: Flow) -> None:
    await ready(flow)
    await create(flow, request=REQUEST | {"priority": "bulk"})
    await flow.clock.advance((utc("2026-03-27T08:00") - flow.clock.now()) / 1000)
    await flow.settle(only="none")
    claim = await flow.queue.claim("requests.bulk", topics.ROUTE, 10, 0)
    assert claim is not None
    assert [item.headers for item in claim.items] == [{}]


@pytest.mark.parametrize("what", ["step", "compose", "put", "settle"])
async def test_a_recurrence_that_fails_does_not_affect_others(
    flow: Flow, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ready(flow)
    body = {"rrule": "FREQ=DAILY", "start": "2026-03-27T09:00", "timezone": "Europe/Berlin", "request": REQUEST}
    service_of_all = service(flow)
    made = [await service_of_all.create(TENANT, json.dumps(body).encode()) for _ in range(5)]
    bad = made[2]
    step, put, settle = recurring.step, flow.queue.put, flow.store.recurrences.settle

    def breaks(recurrence: Recurrence, *arguments: Any, **options: Any) -> Any:
        if recurrence.id == bad.id:
            raise OverflowError("date value out of range \ud800")
        return step(recurrence, *arguments, **options)

    async def refuses(items: Sequence[Item]) -> None:
        if any(item.body == bodies[bad.id] for item in items):
            raise ValueError("too large")
        await put(items)

    async def stays(moved: Sequence[Moved]) -> None:
        if any(move.id == bad.id for move in moved):
            raise ValueError("out of range")
        await settle(moved)

    bodies = {bad.id: b""}
    compose = Composer.compose

    async def noting(self: Composer, *arguments: Any, **options: Any) -> Any:
        composed = await compose(self, *arguments, **options)
        if composed.id == occurrence_id(bad):
            if what == "compose":
                raise OverflowError("date value out of range \ud800")
            bodies[bad.id] = encode(composed)
        return composed

    monkeypatch.setattr(Composer, "compose", noting)
    if what == "step":
        monkeypatch.setattr(recur, "step", breaks)
    elif what == "put":
        monkeypatch.setattr(flow.queue, "put", refuses)
    elif what == "settle":
        monkeypatch.setattr(flow.store.recurrences, "settle", stays)
    await at(flow, "2026-03-27T08:00:01")
    assert sent(flow) == (5 if what == "settle" else 4)
    for one in made:
        seen = await flow.store.recurrences.get(TENANT, one.id)
        assert seen is not None
        if one.id != bad.id:
            assert seen.progress.due == utc("2026-03-28T08:00")
        elif what == "step":
            assert (seen.progress.due, seen.progress.problem != "") == (None, True)
            seen.progress.problem.encode()
        else:
            assert seen.progress == one.progress, "its lease brings it again, as a copy"


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("what", ["compose", "put"])
async def test_an_occurrence_that_fails_twice_is_skipped_and_the_next_one_comes(
    flow: Flow, what: str, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ready(flow)
    made = await create(flow)
    put, compose = flow.queue.put, Composer.compose
    failed: list[int] = []

    def fails() -> bool:
        """True when the occurrence is due, and again after its lease. A refused put is tried alone as well."""
        if len(set(failed)) < times or flow.clock.now() in failed:
            failed.append(flow.clock.now())
            return True
        return False

    async def refuses(items: Sequence[Item]) -> None:
        if what == "put" and any(item.topic.startswith("requests") for item in items) and fails():
            raise ValueError("too large")
        await put(items)

    async def breaks(self: Composer, *arguments: Any, **options: Any) -> Any:
        if what == "compose" and fails():
            raise OverflowError("date value out of range \ud800")
        return await compose(self, *arguments, **options)

    monkeypatch.setattr(flow.queue, "put", refuses)
    monkeypatch.setattr(Composer, "compose", breaks)
    await at(flow, "2026-03-27T08:00:01")
    assert sent(flow) == 0
    assert await flow.store.recurrences.get(TENANT, made.id) == made, "it has a second chance"
    for _ in range(120):  # a copy waits for its original, which another worker may have
        await flow.advance(1)
    seen = await flow.store.recurrences.get(TENANT, made.id)
    assert seen is not None
    assert (sent(flow), seen.progress.skipped) == ((1, 0) if times == 1 else (0, 1))
    assert (seen.progress.problem == "") == (times == 1)
    seen.progress.problem.encode()
    assert seen.progress.due == utc("2026-03-28T08:00")
    await at(flow, "2026-03-28T08:00:01")
    assert sent(flow) == (2 if times == 1 else 1)
    seen = await flow.store.recurrences.get(TENANT, made.id)
    assert seen is not None
    assert (seen.progress.problem, seen.progress.skipped) == ("", times - 1)


async def test_a_process_that_stood_still_past_its_lease_sends_no_occurrence(
    flow: Flow, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ready(flow)
    await create(flow)
    due = flow.store.recurrences.due

    async def then_stands_still(now: int, limit: int, lease_s: float) -> Any:
        found = await due(now, limit, lease_s)
        if found:
            await flow.clock.advance(recur.LEASE_S)
        return found

    await flow.clock.advance((utc("2026-03-27T08:00") - flow.clock.now()) / 1000)
    with monkeypatch.context() as patch:
        patch.setattr(flow.store.recurrences, "due", then_stands_still)
        with pytest.raises(LeaseLost):
            await flow.settle()
    assert await depth(flow.queue, topics.requests(Priority.NORMAL), topics.ROUTE) == 0
    await flow.settle()
    for _ in range(80):
        await flow.advance(1)
    assert sent(flow) == 1
