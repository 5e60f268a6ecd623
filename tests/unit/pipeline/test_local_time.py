"""`send_at_local` through the whole flow, with a virtual clock that crosses the jumps of real timezones."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from support.flow import MAIL, TENANT, Flow
from tidings.model import topics
from tidings.model.errors import Invalid
from tidings.model.user import Profile
from tidings.model.vocabulary import Channel, State
from tidings.ports.queue import Item

ADA = {"user_id": "ada"}
HOUR = 3600


def utc(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


async def at(flow: Flow, text: str) -> None:
    """Advance the clock to a time in UTC."""
    await flow.advance((utc(text) - flow.clock.now()) / 1000)


async def move(flow: Flow, timezone: str) -> None:
    """Change the user's timezone."""
    profile = Profile(email="ada@example.com", timezone=timezone)
    await flow.store.users.upsert(TENANT, [("ada", profile, None)], flow.clock.now())


@pytest.mark.parametrize(
    ("timezone", "start", "local", "instant"),
    [
        ("Europe/Berlin", "2026-05-04T05:00", "09:00", "2026-05-04T07:00"),
        ("Europe/Berlin", "2026-05-04T07:00", "09:00", "2026-05-05T07:00"),
        ("Europe/Berlin", "2026-03-28T20:00", "02:30", "2026-03-29T01:00"),  # a gap: when the clock jumps
        ("Europe/Berlin", "2026-10-24T20:00", "02:30", "2026-10-25T00:30"),  # an overlap: the first time
        ("Europe/Berlin", "2026-10-24T20:00", "2026-10-25T02:30:30", "2026-10-25T00:30:30"),
        ("Australia/Lord_Howe", "2026-10-03T10:00", "02:10", "2026-10-03T15:30"),
        ("America/New_York", "2026-03-07T12:00", "2026-03-08T09:00", "2026-03-08T13:00"),
        (None, "2026-05-04T05:00", "09:00", "2026-05-04T09:00"),
    ],
)
async def test_a_notification_is_sent_once_when_the_users_clock_shows_its_time(
    flow: Flow, timezone: str | None, start: str, local: str, instant: str
) -> None:
    await at(flow, start)
    await flow.user(timezone=timezone)
    id = await flow.accept(to=ADA, content=MAIL, send_at_local=local)
    await flow.settle()
    waiting = await flow.view(id)
    assert (waiting.state, waiting.reason) == (State.DEFERRED, "send_at")
    assert waiting.next_at == f"{datetime.fromisoformat(instant).isoformat()}.000Z"
    await flow.clock.advance((utc(instant) - flow.clock.now()) / 1000 - 0.001)
    await flow.settle()
    assert not flow.provider(Channel.EMAIL).sent
    await flow.advance(0.001)
    assert len(flow.provider(Channel.EMAIL).sent) == 1
    await flow.advance(3 * 24 * HOUR)
    assert len(flow.provider(Channel.EMAIL).sent) == 1
    seen = await flow.view(id)
    assert seen.state is State.SENT
    assert seen.next_at is None


async def test_the_requests_timezone_comes_before_the_users(flow: Flow) -> None:
    await at(flow, "2026-05-04T05:00")
    await flow.user(timezone="Europe/Berlin")
    tokyo = await flow.accept(to=ADA | {"timezone": "Asia/Tokyo"}, content=MAIL, send_at_local="2026-05-05T09:00")
    inline = {"email": "bob@example.com", "timezone": "America/New_York"}
    york = await flow.accept(to=inline, content=MAIL, send_at_local="2026-05-05T09:00")
    await flow.settle()
    assert (await flow.view(tokyo)).next_at == "2026-05-05T00:00:00.000Z"
    assert (await flow.view(york)).next_at == "2026-05-05T13:00:00.000Z"


async def test_a_user_who_moved_west_waits_again_and_gets_it_once(flow: Flow) -> None:
    await at(flow, "2026-05-04T05:00")
    await flow.user(timezone="Europe/Berlin")
    id = await flow.accept(to=ADA, content=MAIL, send_at_local="09:00")
    await flow.settle()
    await move(flow, "America/New_York")
    await at(flow, "2026-05-04T07:00")
    assert (await flow.view(id)).next_at == "2026-05-04T13:00:00.000Z"
    await move(flow, "Pacific/Honolulu")
    await at(flow, "2026-05-04T13:00")
    assert (await flow.view(id)).next_at == "2026-05-04T19:00:00.000Z"
    await at(flow, "2026-05-04T18:59")
    assert not flow.provider(Channel.EMAIL).sent
    await at(flow, "2026-05-05T19:00")
    assert len(flow.provider(Channel.EMAIL).sent) == 1
    waits = [entry.at for entry in (await flow.view(id)).timeline if entry.state is State.DEFERRED]
    assert waits == ["2026-05-04T05:00:00.000Z", "2026-05-04T07:00:00.000Z", "2026-05-04T13:00:00.000Z"]


async def test_a_user_who_moved_east_gets_it_at_the_time_that_was_known(flow: Flow) -> None:
    await at(flow, "2026-05-04T05:00")
    await flow.user(timezone="Europe/Berlin")
    await flow.accept(to=ADA, content=MAIL, send_at_local="09:00")
    await flow.settle()
    await move(flow, "Asia/Tokyo")
    await at(flow, "2026-05-04T07:00")
    assert len(flow.provider(Channel.EMAIL).sent) == 1


async def test_a_notification_due_after_its_expiry_expires_at_once(flow: Flow) -> None:
    await at(flow, "2026-05-04T05:00")
    await flow.user(timezone="Europe/Berlin")
    id = await flow.accept(to=ADA, content=MAIL, send_at_local="09:00", expires_at="2026-05-04T07:00:00Z")
    await flow.settle()
    seen = await flow.view(id)
    assert (seen.state, seen.reason, seen.send_at_local) == (State.EXPIRED, "expired", "2026-05-04T09:00:00")


async def test_a_notification_that_waits_for_a_local_time_can_be_cancelled(flow: Flow) -> None:
    await flow.user(timezone="Europe/Berlin")
    id = await flow.accept(to=ADA, content=MAIL, send_at_local="09:00")
    await flow.settle()
    await flow.store.cancellations.cancel(TENANT, id, flow.clock.now())
    await flow.settle()
    assert (await flow.view(id)).state is State.CANCELLED
    await flow.advance(48 * HOUR)
    assert not flow.provider(Channel.EMAIL).sent


@pytest.mark.parametrize("wanted", [{"send_at_local": "09:00"}, {"send_at": "2026-05-04T07:00:00Z"}])
async def test_a_routing_that_is_repeated_after_the_time_sends_nothing_twice(
    flow: Flow, wanted: dict[str, str]
) -> None:
    await at(flow, "2026-05-04T05:00")
    await flow.user(timezone="Europe/Berlin")
    id = await flow.accept(to=ADA, content=MAIL, **wanted)
    claim = await flow.queue.claim("requests.normal", topics.ROUTE, 10, 0)
    assert claim is not None
    body = claim.items[0].body
    await claim.release()
    await flow.settle()
    await flow.clock.advance(3 * HOUR)
    # A crash between putting the outputs and ending the claim, on a queue that is not atomic: it comes back marked.
    await flow.queue.put([Item("requests.normal", "shop/ada", body, {"repeated": "1"})])
    await flow.settle()
    await flow.advance(48 * HOUR)
    assert len(flow.provider(Channel.EMAIL).sent) == 1
    assert (await flow.view(id)).state is State.SENT


@pytest.mark.parametrize(
    ("wanted", "code"),
    [
        ({"send_at_local": "9 o'clock"}, "invalid_local_time"),
        ({"send_at_local": "2026-05-04T09:00+02:00"}, "invalid_local_time"),
        ({"send_at_local": "2026-02-30T09:00"}, "invalid_local_time"),
        ({"send_at_local": "2099-01-01T09:00"}, "too_far"),
        ({"send_at_local": "09:00", "send_at": "2023-11-15T09:00:00Z"}, "ambiguous_time"),
    ],
)
async def test_an_invalid_local_time_is_refused(flow: Flow, wanted: dict[str, str], code: str) -> None:
    with pytest.raises(Invalid) as refused:
        await flow.accept(to=ADA, content=MAIL, **wanted)
    assert (refused.value.code, refused.value.path) == (code, "$.send_at_local")
