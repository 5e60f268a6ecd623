"""Which days of the history get a partition, go to the archive, and are summed up."""

from __future__ import annotations

from uuid import UUID

import pytest

from tidings.model.days import DAY_MINUTES, DAY_MS, DayState, Part
from tidings.policy.days import (
    AHEAD_DAYS,
    BACK_DAYS,
    Place,
    parts_of,
    place,
    ripe,
    stretches,
    whole_days,
    worth_rolling,
)

TODAY = 20_000
HOUR_MS = DAY_MS // 24


@pytest.mark.parametrize(
    ("ahead", "expected"),
    [
        (AHEAD_DAYS + 1, Place.TOO_FAR),
        (AHEAD_DAYS, Place.MAKE),
        (0, Place.MAKE),
        (-BACK_DAYS, Place.MAKE),
        (-BACK_DAYS - 1, Place.TOO_OLD),
    ],
)
def test_a_day_without_a_partition_gets_one_if_it_is_not_too_far_away(ahead: int, expected: Place) -> None:
    assert place(TODAY + ahead, TODAY, archived=False) is expected
    assert place(TODAY + ahead, TODAY, archived=True) is Place.ARCHIVED


def test_a_day_is_ripe_when_it_is_older_than_the_days_that_are_kept() -> None:
    assert ripe({99, 97, 90, 96}, 100, 3) == [90, 96]
    assert ripe({99, 97, 90, 96}, 100, 0) == []


@pytest.mark.parametrize(
    ("closed_for", "since", "worth"),
    [
        (HOUR_MS - 1, None, False),
        (HOUR_MS, None, True),
        (HOUR_MS, HOUR_MS - 1, False),
        (HOUR_MS, HOUR_MS, True),
        (8 * HOUR_MS, HOUR_MS, True),
        (16 * HOUR_MS, 2 * HOUR_MS - 1, False),
        (16 * HOUR_MS, 2 * HOUR_MS, True),
        (8 * DAY_MS, DAY_MS - 1, False),
        (8 * DAY_MS, DAY_MS, True),
    ],
)
def test_a_closed_day_is_summed_up_the_less_often_the_older_it_is(
    closed_for: int, since: int | None, worth: bool
) -> None:
    now = (TODAY + 1) * DAY_MS + closed_for
    assert worth_rolling(TODAY, now, None if since is None else now - since) is worth


def test_minutes_are_widened_to_whole_days_where_they_cut_a_folded_one() -> None:
    noon, evening = 10 * DAY_MINUTES + 720, 12 * DAY_MINUTES + 1_200
    assert whole_days(noon, evening, ()) == (noon, evening)
    assert whole_days(noon, evening, {11}) == (noon, evening)
    assert whole_days(noon, evening, {10}) == (10 * DAY_MINUTES, evening)
    assert whole_days(noon, evening, {12}) == (noon, 13 * DAY_MINUTES)
    assert whole_days(noon, 12 * DAY_MINUTES + 1, {12}) == (noon, 13 * DAY_MINUTES)
    assert whole_days(noon, noon + 1, {10}) == (10 * DAY_MINUTES, 11 * DAY_MINUTES)
    assert whole_days(10 * DAY_MINUTES, 12 * DAY_MINUTES, {10, 11, 12}) == (10 * DAY_MINUTES, 12 * DAY_MINUTES)


def minutes(day: int, hours: int = 0) -> int:
    return day * DAY_MINUTES + hours * 60


def test_whole_days_come_from_their_sums_and_the_rest_is_read() -> None:
    rolled = [DayState(day, rolled=True) for day in (12, 10, 11, 14)]
    found = stretches(minutes(10, 6), minutes(15, 3), [*rolled, DayState(13)])
    assert found == (
        [DayState(day, rolled=True) for day in (11, 12, 14)],
        [(minutes(10, 6), minutes(11)), (minutes(13), minutes(14)), (minutes(15), minutes(15, 3))],
    )


@pytest.mark.parametrize("state", [DayState(10), DayState(10, archived=True, rolled=True)])
def test_a_day_without_current_sums_and_an_archived_day_are_read(state: DayState) -> None:
    assert stretches(minutes(10), minutes(11), [state]) == ([], [(minutes(10), minutes(11))])


def test_a_day_counts_as_whole_only_if_all_of_it_is_asked_for() -> None:
    day = DayState(10, rolled=True)
    assert stretches(minutes(10), minutes(11), [day]) == ([day], [])
    assert stretches(minutes(10) + 1, minutes(11), [day]) == ([], [(minutes(10) + 1, minutes(11))])
    assert stretches(minutes(10), minutes(11) - 1, [day]) == ([], [(minutes(10), minutes(11) - 1)])
    assert stretches(minutes(10), minutes(10), []) == ([], [])


def part(name: str, first: tuple[str, int], last: tuple[str, int], kind: str = "events") -> Part:
    return Part(name, kind, 1, 1, "", first[0], UUID(int=first[1]), last[0], UUID(int=last[1]))


def test_the_parts_that_may_hold_a_notification_are_those_around_its_tenant_and_id() -> None:
    parts = [
        part("one", ("a", 5), ("b", 3)),
        part("two", ("b", 3), ("b", 9)),
        part("three", ("b", 9), ("c", 1)),
        part("others", ("a", 1), ("z", 9), kind="notifications"),
    ]

    def names(tenant: str, id: int, kind: str = "events") -> list[str]:
        return [each.name for each in parts_of(parts, tenant, UUID(int=id), kind)]

    assert names("b", 3) == ["one", "two"]
    assert names("b", 5) == ["two"]
    assert names("b", 9) == ["two", "three"]
    assert names("a", 4) == []
    assert names("a", 9) == ["one"]
    assert names("c", 2) == []
    assert names("b", 5, "notifications") == ["others"]
