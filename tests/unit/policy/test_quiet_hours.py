from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidings.model.user import QuietHours
from tidings.policy.quiet_hours import SPREAD_MS, spread_after, wake_up
from tidings.policy.wall_clock import zone

MINUTE = 60_000
# Zones with an hour's, half an hour's (Lord Howe) and a whole day's jump (Apia, 2011), at midnight (Beirut), and none.
ZONES = [
    "Europe/Berlin",
    "America/New_York",
    "America/Sao_Paulo",
    "Australia/Lord_Howe",
    "Pacific/Apia",
    "Asia/Beirut",
    "Asia/Kathmandu",
    "Africa/Casablanca",
    "UTC",
]
JUMPS = {
    "Europe/Berlin": "2026-03-29T01:00",
    "America/New_York": "2026-11-01T06:00",
    "Australia/Lord_Howe": "2026-04-04T15:00",
    "Pacific/Apia": "2011-12-30T10:00",
    "Asia/Beirut": "2026-03-28T22:00",
}
MINUTES = st.integers(0, 1439)
QUIET = st.builds(QuietHours, start=MINUTES, end=MINUTES)
INSTANTS = st.integers(1_262_304_000_000, 1_893_456_000_000)


def at(text: str, timezone: str, fold: int = 0) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(timezone), fold=fold).timestamp() * 1000)


def shows_quiet(quiet: QuietHours, timezone: str, instant: int) -> bool:
    wall = datetime.fromtimestamp(instant / 1000, ZoneInfo(timezone))
    minute = wall.hour * 60 + wall.minute
    if quiet.start <= quiet.end:
        return quiet.start <= minute < quiet.end
    return not quiet.end <= minute < quiet.start


def check(quiet: QuietHours, timezone: str, now: int) -> None:
    due = wake_up(quiet, timezone, now)
    if not shows_quiet(quiet, timezone, now):
        assert due is None
        return
    minute = now // MINUTE * MINUTE + MINUTE
    while shows_quiet(quiet, timezone, minute):
        minute += MINUTE
    assert due == minute


@settings(deadline=None)
@given(QUIET, st.sampled_from(ZONES), INSTANTS)
def test_they_end_at_the_first_minute_that_is_not_quiet(quiet: QuietHours, timezone: str, now: int) -> None:
    check(quiet, timezone, now)


@settings(deadline=None)
@given(QUIET, st.sampled_from(sorted(JUMPS)), st.integers(-1500 * MINUTE, 1500 * MINUTE))
def test_near_a_jump_of_the_clock_too(quiet: QuietHours, timezone: str, distance: int) -> None:
    check(quiet, timezone, at(JUMPS[timezone], "UTC") + distance)


def test_the_usual_night() -> None:
    night = QuietHours(22 * 60, 8 * 60)
    assert wake_up(night, "Europe/Berlin", at("2026-05-04T23:30", "Europe/Berlin")) == at(
        "2026-05-05T08:00", "Europe/Berlin"
    )
    assert wake_up(night, "Europe/Berlin", at("2026-05-05T07:59:59.999", "Europe/Berlin")) == at(
        "2026-05-05T08:00", "Europe/Berlin"
    )
    assert wake_up(night, "Europe/Berlin", at("2026-05-05T08:00", "Europe/Berlin")) is None
    assert wake_up(night, "Europe/Berlin", at("2026-05-04T21:59:59.999", "Europe/Berlin")) is None
    assert wake_up(night, "Europe/Berlin", at("2026-05-04T22:00", "Europe/Berlin")) == at(
        "2026-05-05T08:00", "Europe/Berlin"
    )


@pytest.mark.parametrize(
    ("evening", "morning"), [("2026-03-28T23:00", "2026-03-29"), ("2026-10-24T23:00", "2026-10-25")]
)
def test_a_night_in_which_the_clock_changes_ends_by_the_new_time(evening: str, morning: str) -> None:
    """In London, whose winter time is UTC."""
    night = QuietHours(22 * 60, 8 * 60)
    assert wake_up(night, "Europe/London", at(evening, "Europe/London")) == at(morning + "T08:00", "Europe/London")


def test_a_person_is_woken_at_the_same_minute_of_one_day_and_at_others_on_other_days() -> None:
    ends = [at(f"2026-05-{day:02}T08:00", "Europe/Berlin") for day in range(1, 11)]
    assert len({spread_after(end, "shop/ada") - end for end in ends}) == 10
    later = ends[0] + 37 * MINUTE
    assert spread_after(later, "shop/ada") - later == spread_after(ends[0], "shop/ada") - ends[0]


def test_any_text_is_a_key() -> None:
    assert 0 <= spread_after(0, "shop/\ud800") < SPREAD_MS


def test_an_end_that_the_clock_jumps_over_is_the_jump() -> None:
    quiet = QuietHours(22 * 60, 2 * 60 + 30)
    due = wake_up(quiet, "Europe/Berlin", at("2026-03-29T01:30", "Europe/Berlin"))
    assert due == at("2026-03-29T03:00", "Europe/Berlin")


def test_an_end_that_comes_twice_is_the_next_one() -> None:
    quiet = QuietHours(22 * 60, 2 * 60 + 30)
    zone = "Europe/Berlin"
    assert wake_up(quiet, zone, at("2026-10-25T02:15", zone)) == at("2026-10-25T02:30", zone)
    assert wake_up(quiet, zone, at("2026-10-25T02:15", zone, fold=1)) == at("2026-10-25T02:30", zone, fold=1)


def test_none_and_equal_ends_mean_no_quiet_hours() -> None:
    assert wake_up(None, "Europe/Berlin", 0) is None
    assert wake_up(QuietHours(600, 600), "Europe/Berlin", 0) is None


@pytest.mark.parametrize(
    "name", [None, "", "Mars/Olympus", "America", "../etc/passwd", "/etc/passwd", "a\0b", "\ud800"]
)
def test_an_unknown_zone_is_utc(name: str | None) -> None:
    assert zone(name) is UTC
    assert wake_up(QuietHours(0, 60), name, 0) == 60 * MINUTE
