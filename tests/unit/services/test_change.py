"""A notification that waits for its time, changed through the whole flow."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest

from support.flow import SMS, TENANT, Flow
from tidings.model.errors import Conflict, Invalid
from tidings.model.notification import Content, EmailContent, SmsContent
from tidings.model.outcome import Outcome
from tidings.model.template import Variable
from tidings.model.vocabulary import Channel, State
from tidings.model.wire import decode_notification
from tidings.pipeline.compose.requests import LARGEST_BYTES
from tidings.ports.schedule import Waiting
from tidings.services.change import TRIES, Change, decode

ADA = {"user_id": "ada"}


def utc(flow: Flow, seconds: float) -> str:
    return datetime.fromtimestamp(flow.clock.now() / 1000 + seconds, UTC).isoformat()


async def change(flow: Flow, id: Any, **body: Any) -> None:
    request = decode(json.dumps(body).encode())
    await Change(flow.store.changes, flow.store.users, flow.renderer, flow.clock)(TENANT, id, request)


async def waiting(flow: Flow, **more: Any) -> Any:
    """A notification that waits for an hour."""
    await flow.user(timezone="Europe/Berlin")
    wanted: dict[str, Any] = {"to": ADA, "content": SMS, "send_at": utc(flow, 3600)} | more
    id = await flow.accept(**{name: value for name, value in wanted.items() if value is not None})
    await flow.settle()
    return id


def sent(flow: Flow) -> int:
    return len(flow.provider(Channel.SMS).sent)


async def test_a_changed_notification_is_sent_at_its_new_time_only(flow: Flow) -> None:
    id = await waiting(flow)
    await change(flow, id, send_at=utc(flow, 7200))
    seen = await flow.view(id)
    assert (seen.state, seen.reason, seen.next_at) == (State.DEFERRED, "changed", seen.send_at)
    await flow.advance(3600)
    assert sent(flow) == 0
    await flow.advance(3600)
    assert sent(flow) == 1
    await flow.advance(24 * 3600)
    assert sent(flow) == 1


async def test_the_send_time_can_be_changed_to_now(flow: Flow) -> None:
    id = await waiting(flow)
    await change(flow, id, send_at=utc(flow, 0))
    await flow.settle()
    assert sent(flow) == 1


async def test_a_local_time_takes_the_place_of_an_instant(flow: Flow) -> None:
    id = await waiting(flow)
    await change(flow, id, send_at_local="2023-11-16T09:00")  # the clock stands in November 2023
    seen = await flow.view(id)
    assert (seen.send_at, seen.send_at_local, seen.next_at) == (
        None,
        "2023-11-16T09:00:00",
        "2023-11-16T08:00:00.000Z",
    )
    await change(flow, id, send_at_local="09:00")
    assert (await flow.view(id)).next_at == "2023-11-15T08:00:00.000Z"
    await change(flow, id, send_at=utc(flow, 60))
    assert (await flow.view(id)).send_at_local is None
    await flow.advance(60)
    assert sent(flow) == 1


async def test_data_metadata_priority_and_expiry_change_without_the_send_time(flow: Flow) -> None:
    await flow.template("hello", {"en": Content(sms=SmsContent("Hello {{ name }}"))}, name=Variable())
    id = await waiting(flow, content=None, template="hello", data={"name": "Ada"})
    before = (await flow.view(id)).next_at
    await change(flow, id, data={"name": "Bob"}, metadata={"a": 1}, priority="bulk", expires_at=utc(flow, 90_000))
    seen = await flow.view(id)
    assert (seen.next_at, seen.priority, bytes(seen.metadata)) == (before, "bulk", b'{"a": 1}')
    assert seen.expires_at is not None
    await change(flow, id, expires_at=None)
    assert (await flow.view(id)).expires_at is None
    await flow.advance(3600)
    (out,) = flow.provider(Channel.SMS).sent
    assert isinstance(out.content, SmsContent)
    assert out.content.text == "Hello Bob"
    assert [entry.reason for entry in (await flow.view(id)).timeline][:4] == [
        "accepted",
        "send_at",
        "changed",
        "changed",
    ]


async def test_a_notification_that_was_sent_never_waited_or_is_cancelled_cannot_be_changed(flow: Flow) -> None:
    id = await waiting(flow)
    await flow.advance(3600)
    at_once = await flow.accept(to=ADA, content=SMS)
    await flow.settle()
    cancelled = await waiting(flow)
    await flow.store.cancellations.cancel(TENANT, cancelled, flow.clock.now())
    for each in (id, at_once, cancelled):
        with pytest.raises(Conflict) as refused:
            await change(flow, each, metadata={"a": 1})
        assert refused.value.code == "too_late"


async def test_a_user_who_moves_after_a_change_waits_once_more(flow: Flow) -> None:
    id = await waiting(flow)
    await change(flow, id, send_at_local="09:00")
    await flow.user(timezone="America/New_York")
    await flow.advance(10 * 3600)  # past nine in Berlin
    assert sent(flow) == 0
    await flow.advance(14 * 3600)
    assert sent(flow) == 1
    steps = [entry.at for entry in (await flow.view(id)).timeline if entry.state is State.DEFERRED]
    assert len(steps) == 3
    await flow.advance(48 * 3600)
    assert sent(flow) == 1


@pytest.mark.parametrize(
    ("body", "code", "path"),
    [
        ({}, "nothing_to_change", "$"),
        ({"to": ADA}, "unknown_field", "$.to"),
        ({"channels": ["sms"]}, "unknown_field", "$.channels"),
        ({"send_at": None, "metadata": None}, "nothing_to_change", "$"),
        ({"send_at": "2023-11-16T09:00:00"}, "no_timezone", "$.send_at"),
        ({"send_at": "2099-01-01T00:00:00Z"}, "too_far", "$.send_at"),
        ({"send_at_local": "nine"}, "invalid_local_time", "$.send_at_local"),
        ({"send_at_local": "09:00", "send_at": "2023-11-16T09:00:00Z"}, "ambiguous_time", "$.send_at_local"),
        ({"expires_at": "2023-11-14T22:30:00Z"}, "already_expired", "$.expires_at"),
        ({"expires_at": "2000-01-01T00:00:00Z"}, "already_expired", "$.expires_at"),
        ({"expires_at": "soon"}, "invalid_time", "$.expires_at"),
        ({"data": [1]}, "wrong_type", "$.data"),
        ({"metadata": []}, "wrong_type", "$.metadata"),
        ({"metadata": {"a": "\0"}}, "nul_character", "$.metadata"),
        ({"data": {"a": 1}}, "content_or_template", "$.data"),
        ({"priority": "urgent"}, "wrong_type", "$.priority"),
    ],
)
async def test_an_impossible_change_is_refused_and_changes_nothing(
    flow: Flow, body: Mapping[str, Any], code: str, path: str
) -> None:
    id = await waiting(flow)
    before = await flow.view(id)
    with pytest.raises(Invalid) as refused:
        await change(flow, id, **body)
    assert (refused.value.code, refused.value.path) == (code, path)
    assert await flow.view(id) == before


async def test_data_without_a_required_variable_is_refused(flow: Flow) -> None:
    await flow.template("hello", {"en": Content(sms=SmsContent("Hello {{ name }}"))}, name=Variable())
    id = await waiting(flow, content=None, template="hello", data={"name": "Ada"})
    # What counts is the version that was pinned, not the one that is published now.
    await flow.template("hello", {"en": Content(sms=SmsContent("Hello {{ other }}"))}, other=Variable())
    with pytest.raises(Invalid) as refused:
        await change(flow, id, data={"other": 1})
    assert (refused.value.code, refused.value.path) == ("missing_variables", "$.data.name")
    await change(flow, id, data={"name": "Bob"})


async def test_a_change_is_repeated_when_another_change_comes_first(
    flow: Flow, monkeypatch: pytest.MonkeyPatch
) -> None:
    id = await waiting(flow)
    real, forestalled = flow.store.changes.change, list[int]()

    async def slow(row: Waiting, changed: Outcome) -> bool:
        if not forestalled:
            forestalled.append(1)
            await change(flow, id, metadata={"theirs": 1})
        return await real(row, changed)

    monkeypatch.setattr(flow.store.changes, "change", slow)
    await change(flow, id, priority="bulk")
    seen = await flow.view(id)
    assert (seen.priority, bytes(seen.metadata)) == ("bulk", b'{"theirs": 1}')


@pytest.mark.parametrize(
    ("send_at", "expires_at", "is_possible"),
    [
        (None, 3599, False),
        (None, 3600, False),
        (None, 3600.001, True),
        (7200, 3601, False),
        (7200, 7200.001, True),
        (-60, -1, False),
        (-60, 0, False),
        (-60, 0.001, True),
    ],
)
async def test_an_expiry_must_come_after_the_send_time_and_after_now(
    flow: Flow, send_at: float | None, expires_at: float, is_possible: bool
) -> None:
    id = await waiting(flow)
    body = {"expires_at": utc(flow, expires_at)} | ({} if send_at is None else {"send_at": utc(flow, send_at)})
    if is_possible:
        await change(flow, id, **body)
        return
    with pytest.raises(Invalid) as refused:
        await change(flow, id, **body)
    assert (refused.value.code, refused.value.path) == ("already_expired", "$.expires_at")


async def test_an_expiry_that_was_given_before_must_come_after_a_new_send_time(flow: Flow) -> None:
    id = await waiting(flow, expires_at=utc(flow, 5400))
    with pytest.raises(Invalid, match="after send_at"):
        await change(flow, id, send_at=utc(flow, 5400))
    await change(flow, id, send_at=utc(flow, 5399))


async def test_a_change_that_always_comes_too_late_is_tried_a_few_times(
    flow: Flow, monkeypatch: pytest.MonkeyPatch
) -> None:
    id = await waiting(flow)
    tries: list[Outcome] = []

    async def never(_: Waiting, changed: Outcome) -> bool:
        tries.append(changed)
        return False

    monkeypatch.setattr(flow.store.changes, "change", never)
    with pytest.raises(Conflict) as refused:
        await change(flow, id, metadata={"a": 1})
    assert (refused.value.code, len(tries)) == ("change_in_flight", TRIES)
    assert {(one.id, one.tenant, one.at) for one in tries} == {(id, TENANT, flow.clock.now())}


async def test_a_changed_notification_waits_in_the_queue_of_its_priority_with_a_step_of_its_own(flow: Flow) -> None:
    id = await waiting(flow)
    rows = [await flow.store.changes.waiting(TENANT, id)]
    for priority in ("bulk", "critical"):
        await flow.clock.advance(1)
        await change(flow, id, priority=priority)
        rows.append(await flow.store.changes.waiting(TENANT, id))
    found = [row for row in rows if row is not None]
    assert [row.item.topic for row in found] == ["requests.normal", "requests.bulk", "requests.critical"]
    assert {row.item.key for row in found} == {"shop/ada"}
    assert {row.due for row in found} == {found[0].due}
    assert [decode_notification(row.item.body).step for row in found] == [1, 2, 3]
    ends = [datetime.fromisoformat(entry.at) for entry in (await flow.view(id)).timeline]
    assert [(end - ends[0]).total_seconds() for end in ends] == [0, 0, 1, 2]


async def test_an_inline_recipients_local_time_is_that_of_the_request(flow: Flow) -> None:
    there = {"phone": "+4915123456789", "timezone": "Asia/Tokyo"}
    id = await waiting(flow, to=there)
    await change(flow, id, send_at_local="2023-11-16T09:00")
    assert (await flow.view(id)).next_at == "2023-11-16T00:00:00.000Z"


async def test_a_time_without_a_date_is_the_next_one_by_the_recipients_clock(flow: Flow) -> None:
    there = {"phone": "+4915123456789", "timezone": "Asia/Tokyo"}
    id = await waiting(flow, to=there)
    await change(flow, id, send_at_local="07:00")  # it is 07:13 there, and 22:13 of the day before in UTC
    assert (await flow.view(id)).next_at == "2023-11-15T22:00:00.000Z"


async def test_data_need_be_printable_only_on_the_channels_of_the_notification(flow: Flow) -> None:
    contents = Content(sms=SmsContent("Hello"), email=EmailContent("{{ name }}", text="{{ name }}"))
    await flow.template("hello", {"en": contents}, name=Variable())
    data: dict[str, Any] = {"name": {"first": "Ada"}}
    for channel in ("sms", "email"):
        id = await waiting(flow, content=None, template="hello", data={"name": "Ada"}, channels=[channel])
        if channel == "sms":
            await change(flow, id, data=data)
            continue
        with pytest.raises(Invalid) as refused:
            await change(flow, id, data=data)
        assert (refused.value.code, refused.value.path) == ("not_printable", "$.data.name")


async def test_another_tenant_cannot_change_a_notification(flow: Flow) -> None:
    id = await waiting(flow)
    with pytest.raises(Conflict) as refused:
        await Change(flow.store.changes, flow.store.users, flow.renderer, flow.clock)(
            "bank", id, decode(b'{"metadata": {}}')
        )
    assert refused.value.code == "too_late"


def test_a_change_has_a_largest_size() -> None:
    body = b'{"metadata": {"a": 1}}'
    assert decode(body.ljust(LARGEST_BYTES)) == decode(body)
    with pytest.raises(Invalid) as refused:
        decode(body.ljust(LARGEST_BYTES + 1))
    assert refused.value.code == "too_large"
