from __future__ import annotations

import errno
import os
import resource
from contextlib import suppress
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tidings.model.errors import Unavailable
from tidings.policy import wall_clock
from tidings.policy.wall_clock import has_date, instant_of, local_time, next_time, next_wall, offset, parse, zone

HOUR = 3_600_000
DAY = 24 * HOUR
# Half an hour's jump (Lord Howe), a skipped day (Apia), Ramadan (Casablanca), jumps at midnight (Beirut), before it
# (Nuuk), an odd offset (Kathmandu) and none.
ZONES = [
    "Australia/Lord_Howe",
    "Pacific/Apia",
    "Africa/Casablanca",
    "Asia/Beirut",
    "America/Nuuk",
    "Europe/Berlin",
    "Europe/Dublin",
    "Europe/London",
    "America/New_York",
    "America/Sao_Paulo",
    "America/St_Johns",
    "Asia/Kathmandu",
    "UTC",
]
JUMPS = [
    ("Europe/Berlin", "2026-03-29T01:00"),
    ("Europe/Berlin", "2026-10-25T01:00"),
    ("America/New_York", "2026-03-08T07:00"),
    ("America/New_York", "2026-11-01T06:00"),
    ("Australia/Lord_Howe", "2026-04-04T15:00"),
    ("Australia/Lord_Howe", "2026-10-03T15:30"),
    ("Pacific/Apia", "2011-12-30T10:00"),
    ("Asia/Beirut", "2026-03-28T22:00"),
    ("America/Nuuk", "2026-03-29T01:00"),
    ("Africa/Casablanca", "2026-02-15T02:00"),
    ("Africa/Casablanca", "2026-03-22T02:00"),
]
WALLS = st.datetimes(datetime(2010, 1, 1), datetime(2037, 1, 1)).map(lambda wall: wall.replace(microsecond=0))
NEAR = st.builds(
    lambda place, minutes: (place[0], datetime.fromisoformat(place[1]) + timedelta(minutes=minutes)),
    st.sampled_from(JUMPS),
    st.integers(-2000, 2000),
)
ANYWHERE = st.tuples(st.sampled_from(ZONES), WALLS) | NEAR


def at(text: str, timezone: str, fold: int = 0) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(timezone), fold=fold).timestamp() * 1000)


def utc(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


@settings(deadline=None)
@given(ANYWHERE)
@example(("Pacific/Apia", datetime(2011, 12, 30, 9)))
def test_it_is_the_first_instant_at_which_the_clock_shows_the_time_or_has_passed_it(
    place: tuple[str, datetime],
) -> None:
    timezone, wall = place
    where = zone(timezone)
    instant = instant_of(wall, where)
    assert local_time(where, instant) >= wall
    # Nowhere earlier does the clock show it: an offset changes by a day at most.
    earlier = [instant - seconds * 1000 for seconds in (1, 60, 1800, 3600, 7200, 86_400)]
    assert all(local_time(where, before) != wall for before in earlier)
    if local_time(where, instant) != wall:
        assert local_time(where, instant - 1000) < wall  # the clock jumps over it at this very instant
        assert offset(where, instant - 1000) != offset(where, instant)


@settings(deadline=None)
@given(ANYWHERE, st.times().map(lambda clock: clock.replace(microsecond=0)))
def test_the_next_time_of_day_is_the_first_of_a_date_after_now(place: tuple[str, datetime], clock: time) -> None:
    timezone, moment = place
    where, now = zone(timezone), instant_of(moment, zone(timezone))
    wall = next_time(clock, where, now)
    assert wall.time() == clock
    assert now < instant_of(wall, where) <= now + 50 * HOUR
    days = [wall.date() - timedelta(days=back) for back in (1, 2)]
    assert all(instant_of(datetime.combine(day, clock), where) <= now for day in days if has_date(day, where))


@settings(deadline=None)
@given(st.sampled_from(ZONES), WALLS, st.times().map(lambda clock: clock.replace(microsecond=0)))
def test_asked_again_and_again_each_date_comes_once_in_order(timezone: str, start: datetime, clock: time) -> None:
    where = zone(timezone)
    now, seen = instant_of(start, where), list[datetime]()
    for _ in range(10):
        seen.append(next_time(clock, where, now))
        now = instant_of(seen[-1], where)
    assert seen == sorted(set(seen))


def test_in_a_gap_it_is_the_jump() -> None:
    for text in ("2026-03-29T02:00", "2026-03-29T02:30", "2026-03-29T02:59:59"):
        wall = datetime.fromisoformat(text)
        assert instant_of(wall, zone("Europe/Berlin")) == at("2026-03-29T03:00", "Europe/Berlin")
    lord_howe = zone("Australia/Lord_Howe")
    assert instant_of(datetime(2026, 10, 4, 2, 10), lord_howe) == utc("2026-10-03T15:30")


def test_in_an_overlap_it_is_the_first_time() -> None:
    wall = datetime(2026, 10, 25, 2, 30)
    assert instant_of(wall, zone("Europe/Berlin")) == utc("2026-10-25T00:30")
    assert instant_of(datetime(2026, 4, 5, 1, 45), zone("Australia/Lord_Howe")) == utc("2026-04-04T14:45")


def test_the_second_showing_of_a_time_is_not_its_next() -> None:
    where, first = zone("Europe/Berlin"), utc("2026-10-25T00:30")
    assert next_time(time(2, 30), where, first - 1) == datetime(2026, 10, 25, 2, 30)
    assert next_time(time(2, 30), where, first) == datetime(2026, 10, 26, 2, 30)


def test_a_time_of_day_means_the_next_one_and_a_date_is_taken_as_it_is() -> None:
    tokyo, now = zone("Asia/Tokyo"), utc("2026-05-04T23:30")  # the fifth, half past eight
    assert next_wall("09:00", tokyo, now) == datetime(2026, 5, 5, 9)
    assert next_wall("08:00", tokyo, now) == datetime(2026, 5, 6, 8)
    assert next_wall("2026-05-01T08:00", tokyo, now) == datetime(2026, 5, 1, 8)
    with pytest.raises(ValueError, match="neither"):
        next_wall("soon", tokyo, now)


def test_a_skipped_day_has_no_nine_o_clock() -> None:
    apia = zone("Pacific/Apia")
    assert not has_date(date(2011, 12, 30), apia)
    assert has_date(date(2011, 12, 31), apia)
    assert next_time(time(9), apia, at("2011-12-29T09:00", "Pacific/Apia")) == datetime(2011, 12, 31, 9)
    assert instant_of(datetime(2011, 12, 30, 9), apia) == at("2011-12-31T00:00", "Pacific/Apia")


def test_a_day_whose_midnight_is_skipped_is_a_day() -> None:
    assert has_date(date(2026, 3, 29), zone("Asia/Beirut"))
    assert has_date(date(2026, 3, 28), zone("America/Nuuk"))
    assert next_time(time(23, 30), zone("America/Nuuk"), utc("2026-03-28T20:00")) == datetime(2026, 3, 28, 23, 30)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("09:00", time(9)),
        ("23:59:59", time(23, 59, 59)),
        ("2026-12-24T09:00", datetime(2026, 12, 24, 9)),
        ("2026-12-24T09:00:30", datetime(2026, 12, 24, 9, 0, 30)),
        ("1970-01-01T00:00", datetime(1970, 1, 1)),
        ("9990-12-31T23:59:59", datetime(9990, 12, 31, 23, 59, 59)),
    ],
)
def test_valid_times(text: str, expected: time | datetime) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", "9:00", "24:00", "09:60", "09", "09:00Z", "09:00+01:00", "2026-12-24", "2026-02-30T09:00", "2026-12-24 09:00",
     "2026-12-24T09:00Z", "2026-12-24T09:00+01:00", "2026-W52-4T09:00", "٠٩:٠٠", "09:00\n", "2026-12-24T09:00:30.5",
     "1969-12-31T23:59", "9991-01-01T00:00", "0001-01-01T00:00", "9999-12-31T23:59"],
)  # fmt: skip
def test_invalid_times(text: str) -> None:
    with pytest.raises(ValueError, match=r"is neither|out of range|must be in|day is"):
        parse(text)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.EIO, errno.ENOMEM, errno.EACCES])
def test_a_database_that_cannot_be_read_is_no_answer(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """After one moment without file descriptors a timezone must not stay UTC."""
    name = "Antarctica/Troll"

    def failing(_name: str) -> ZoneInfo:
        raise OSError(number, "no")

    zone.cache_clear()
    with monkeypatch.context() as broken:
        broken.setattr(wall_clock, "ZoneInfo", failing)
        for _ in range(2):
            with pytest.raises(Unavailable):
                zone(name)
    assert zone(name) == ZoneInfo(name)


@pytest.mark.parametrize("name", ["Mars/Base", "America", "", None, "../etc/passwd", "a" * 5000, "Europe/Berlin/x"])
def test_an_unknown_name_means_utc(name: str | None) -> None:
    assert zone(name) is UTC


def test_with_no_descriptors_left_a_zone_is_not_forgotten() -> None:
    """The same with a process that really cannot open another file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    zone.cache_clear()
    ZoneInfo.clear_cache()
    opened = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, soft), hard))
    try:
        with suppress(OSError):
            while True:
                opened.append(os.open(os.devnull, os.O_RDONLY))
        assert opened
        with pytest.raises(Unavailable):
            zone("America/New_York")
    finally:
        for descriptor in opened:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert zone("America/New_York") == ZoneInfo("America/New_York")
