"""Timezones, local send times and categories count as they are when a delivery is sent."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from support.flow import MAIL, TENANT, Flow, instant
from support.people import ADA, HOUR, put_user, reached, results
from tidings.model import topics
from tidings.model.user import Category, Preferences, QuietHours
from tidings.model.vocabulary import Channel, State
from tidings.pipeline.runtime.categories import Categories

pytestmark = pytest.mark.usefixtures("users_are_looked_up")


class TestZonesAndTimes:
    @pytest.mark.parametrize(("profile", "quiet"), [(None, True), ("America/New_York", False)])
    async def test_quiet_hours_are_the_persons_and_else_as_the_sender_says(
        self, flow: Flow, profile: str | None, quiet: bool
    ) -> None:
        now = datetime.fromtimestamp(flow.clock.now() / 1000, UTC)
        hours = QuietHours((now.hour + 1) * 60, (now.hour + 2) * 60)
        await put_user(flow, preferences=Preferences(quiet_hours=hours), email="a@example.com", timezone=profile)
        id = await flow.accept(to={**ADA, "timezone": "Africa/Lagos"}, content=MAIL)  # an hour ahead of UTC
        await flow.settle()
        state, reason, _ = (await results(flow, id))[0]
        assert (state, reason) == ((State.DEFERRED, "quiet_hours") if quiet else (State.SENT, ""))

    async def test_they_are_asked_with_the_same_zone_when_it_is_sent(self, flow: Flow) -> None:
        await put_user(flow, email="a@example.com")
        id = await flow.accept(to={**ADA, "timezone": "Africa/Lagos"}, content=MAIL)
        await flow.settle(topics.ROUTE)
        now = datetime.fromtimestamp(flow.clock.now() / 1000, UTC)
        hours = QuietHours((now.hour + 1) * 60, (now.hour + 2) * 60)
        await flow.store.users.set_preferences(TENANT, "ada", Preferences(quiet_hours=hours), flow.clock.now())
        await flow.settle()
        assert (await results(flow, id))[0][:2] == (State.DEFERRED, "quiet_hours")

    @pytest.mark.parametrize("backlog", [0, 1, 60, 3 * HOUR])
    async def test_a_backlog_does_not_cost_a_day(self, flow: Flow, backlog: int) -> None:
        await put_user(flow, email="a@example.com", timezone="Europe/Berlin")
        due = flow.clock.now() + 30_000
        local = datetime.fromtimestamp(due / 1000, UTC).astimezone(ZoneInfo("Europe/Berlin"))
        id = await flow.accept(to=ADA, content=MAIL, send_at_local=local.strftime("%H:%M:%S"))
        await flow.clock.advance(backlog)
        await flow.settle()
        await flow.advance(max(0.0, 30 - backlog))
        assert await results(flow, id) == [(State.SENT, "", "a@example.com")]

    async def test_a_time_that_has_just_passed_when_it_is_accepted_is_tomorrows(self, flow: Flow) -> None:
        await put_user(flow, email="a@example.com")
        passed = datetime.fromtimestamp(flow.clock.now() / 1000 - 1, UTC).strftime("%H:%M:%S")
        id = await flow.accept(to=ADA, content=MAIL, send_at_local=passed)
        await flow.advance(23 * HOUR)
        assert (await flow.view(id)).state is State.DEFERRED
        await flow.advance(HOUR)
        assert (await flow.view(id)).state is State.SENT

    async def test_what_has_expired_in_the_backlog_is_not_sent(self, flow: Flow) -> None:
        await put_user(flow, email="a@example.com")
        due = datetime.fromtimestamp(flow.clock.now() / 1000 + 30, UTC).strftime("%H:%M:%S")
        until = instant(flow.clock.now() + 60_000)
        id = await flow.accept(to=ADA, content=MAIL, send_at_local=due, expires_at=until)
        await flow.clock.advance(90)
        await flow.settle()
        assert (await flow.view(id)).state is State.EXPIRED


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
        await put_user(flow, preferences=Preferences(opted_out={"news": ()}), email="a@example.com")
        await flow.store.tenants.put_category(TENANT, Category("news", critical=True))
        await flow.accept(to=ADA, content=MAIL, category="news")
        await flow.settle()
        assert len(reached(flow, Channel.EMAIL)) == 1
        await flow.store.tenants.put_category(TENANT, Category("news"))
        await flow.clock.advance(2)
        id = await flow.accept(to=ADA, content=MAIL, category="news")
        await flow.settle()
        assert (await results(flow, id))[0][:2] == (State.SUPPRESSED, "opted_out")
