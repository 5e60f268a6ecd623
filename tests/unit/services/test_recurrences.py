"""Recurrences through the whole flow, with a virtual clock."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from support.flow import SMS, TENANT, Flow
from support.recurrences import (
    DAILY,
    HOUR,
    REQUEST,
    advance_to,
    change,
    counted,
    create,
    history,
    sent,
    service,
    start,
    utc,
)
from tidings.model import topics
from tidings.model.errors import Invalid, NotFound
from tidings.model.ids import bucket_of, stable_bucket
from tidings.model.notification import Content, SmsContent
from tidings.model.template import Variable
from tidings.model.user import Profile
from tidings.model.vocabulary import Channel, State
from tidings.pipeline.schedule import recur
from tidings.policy import recurring
from tidings.ports.queue import Item


async def test_a_daily_recurrence_is_sent_at_nine_across_the_jump_of_the_clock(flow: Flow) -> None:
    await start(flow)
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
    await start(flow)
    made = await create(flow)
    await advance_to(flow, "2026-03-27T09:00")
    [out] = flow.provider(Channel.SMS).sent
    assert bucket_of(out.id) == bucket_of(made.id) == stable_bucket(TENANT, "ada")


async def test_after_an_outage_the_latest_comes_once_if_it_is_young_enough(flow: Flow) -> None:
    await start(flow)
    young = await create(flow, rrule="FREQ=HOURLY", name="young", grace_seconds=1800)
    await flow.advance(5 * 24 * HOUR + 600)  # everything was down for five days
    assert sent(flow) == 1
    known = await service(flow).get(TENANT, young.id)
    assert known.progress.skipped > 90
    await flow.advance(HOUR)
    assert sent(flow) == 2


async def test_after_an_outage_an_occurrence_that_is_too_old_is_skipped_and_reported(flow: Flow) -> None:
    await start(flow)
    made = await create(flow)
    await flow.advance(27 * HOUR)  # to 15:00 UTC of the next day: seven hours late
    assert sent(flow) == 0
    known = await service(flow).get(TENANT, made.id)
    assert known.progress.skipped == 1
    assert "missed" in known.progress.problem
    await advance_to(flow, "2026-03-28T09:00")
    assert sent(flow) == 1
    assert (await service(flow).get(TENANT, made.id)).progress.problem == ""


async def test_a_recurrence_follows_its_users_timezone(flow: Flow) -> None:
    await start(flow)
    made = await create(flow, timezone="user")
    assert made.progress.due == utc("2026-03-27T08:00")
    profile = Profile(phone="+4915123456789", timezone="America/New_York")
    await flow.store.users.upsert(TENANT, [("ada", profile, None)], flow.clock.now())
    await advance_to(flow, "2026-03-27T08:00")
    assert sent(flow) == 0
    await advance_to(flow, "2026-03-27T12:59")
    assert sent(flow) == 0
    await advance_to(flow, "2026-03-27T13:00")
    assert sent(flow) == 1
    await advance_to(flow, "2026-03-28T12:59")
    assert sent(flow) == 1


async def test_a_paused_recurrence_sends_nothing_and_resumes_with_the_next_occurrence(flow: Flow) -> None:
    await start(flow)
    made = await create(flow)
    paused = await service(flow).pause(TENANT, made.id)
    assert (await service(flow).pause(TENANT, made.id)) == paused
    assert await service(flow).upcoming(paused, 3) == []
    await advance_to(flow, "2026-03-28T12:00")
    assert sent(flow) == 0
    resumed = await service(flow).resume(TENANT, made.id)
    assert (await service(flow).resume(TENANT, made.id)) == resumed
    assert resumed.progress.due == utc("2026-03-29T07:00")
    await advance_to(flow, "2026-03-29T08:00")
    assert sent(flow) == 1
    assert (await service(flow).get(TENANT, made.id)).progress.skipped == 0


async def test_a_deleted_recurrence_sends_nothing(flow: Flow) -> None:
    await start(flow)
    made = await create(flow)
    await service(flow).delete(TENANT, made.id)
    await flow.advance(5 * 24 * HOUR)
    assert sent(flow) == 0
    with pytest.raises(NotFound):
        await service(flow).get(TENANT, made.id)
    with pytest.raises(NotFound):
        await service(flow).delete(TENANT, made.id)


async def test_a_new_rule_counts_from_now_and_a_new_name_changes_no_time(flow: Flow) -> None:
    await start(flow)
    made = await create(flow)
    named = await change(flow, made, name="every morning")
    assert (named.name, named.progress, named.revision) == ("every morning", made.progress, 2)
    weekly = await change(flow, made, rrule="FREQ=WEEKLY;BYDAY=SU")
    assert weekly.progress.due == utc("2026-03-29T07:00")
    assert weekly.name == "every morning"
    paused = await service(flow).pause(TENANT, made.id)
    assert (await change(flow, paused, rrule="FREQ=DAILY")).progress.due is None


async def test_an_occurrence_uses_the_template_that_is_published_when_it_is_sent(flow: Flow) -> None:
    await start(flow)
    await flow.template("hello", {"en": Content(sms=SmsContent("Hello {{ name }}"))}, name=Variable())
    await create(flow, request={"to": {"user_id": "ada"}, "template": "hello", "data": {"name": "Ada"}})
    await advance_to(flow, "2026-03-27T09:00")
    await flow.template("hello", {"en": Content(sms=SmsContent("Good day {{ name }}"))}, name=Variable())
    await advance_to(flow, "2026-03-28T09:00")
    texts = [out.content.text for out in flow.provider(Channel.SMS).sent if isinstance(out.content, SmsContent)]
    assert texts == ["Hello Ada", "Good day Ada"]


async def test_a_recurrence_whose_occurrence_cannot_be_sent_says_why_and_goes_on(flow: Flow) -> None:
    await start(flow)
    await flow.template("hello", {"en": Content(sms=SmsContent("Hello {{ name }}"))}, name=Variable())
    made = await create(flow, request={"to": {"user_id": "ada"}, "template": "hello", "data": {"name": "Ada"}})
    await flow.template(
        "hello", {"en": Content(sms=SmsContent("{{ name }} {{ more }}"))}, name=Variable(), more=Variable()
    )
    await advance_to(flow, "2026-03-27T09:00")
    known = await service(flow).get(TENANT, made.id)
    assert (known.progress.skipped, known.progress.fired_at) == (1, None)
    assert known.progress.problem == "missing_variables: the template needs more"
    assert known.progress.due == utc("2026-03-28T08:00")
    await change(flow, made, request={"to": {"user_id": "ada"}, "template": "hello", "data": {"name": "A", "more": 1}})
    await advance_to(flow, "2026-03-28T09:00")
    assert sent(flow) == 1
    assert (await service(flow).get(TENANT, made.id)).progress.problem == ""


async def test_a_recurrence_ends(flow: Flow) -> None:
    await start(flow)
    made = await create(flow, rrule="FREQ=DAILY;COUNT=2")
    await flow.user("bob", timezone="Europe/Berlin")
    await advance_to(flow, "2026-04-05T00:00")
    assert sent(flow) == 2
    assert (await service(flow).get(TENANT, made.id)).progress.due is None
    assert await flow.store.recurrences.next_due() is None


async def test_the_recipient_of_a_recurrence_cannot_change(flow: Flow) -> None:
    await start(flow)
    made = await create(flow)
    with pytest.raises(Invalid) as refused:
        await change(flow, made, request={"to": {"user_id": "bob"}, "content": SMS})
    assert (refused.value.code, refused.value.path) == ("other_recipient", "$.request.to")


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
    await start(flow)
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
    await start(flow)
    with pytest.raises(Invalid) as refused:
        await change(flow, await create(flow))
    assert refused.value.code == "nothing_to_change"


async def test_an_occurrence_is_marked_only_if_it_may_be_a_copy(flow: Flow) -> None:
    await start(flow)
    await create(flow, request=REQUEST | {"priority": "bulk"})
    await flow.clock.advance((utc("2026-03-27T08:00") - flow.clock.now()) / 1000)
    await flow.settle(only="none")
    claim = await flow.queue.claim("requests.bulk", topics.ROUTE, 10, 0)
    assert claim is not None
    assert [item.headers for item in claim.items] == [{}]


async def test_expensive_rules_that_are_due_together_are_moved_in_slices(
    flow: Flow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other work runs in between, and another tenant's recurrence is sent with the first slice."""
    await start(flow)
    await flow.store.users.upsert("bank", [("ada", Profile(phone="+4915199999999"), None)], flow.clock.now())
    recurrences = service(flow)
    for tenant in [TENANT] * 24 + ["bank"]:
        await recurrences.create(tenant, json.dumps(DAILY).encode())
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
