"""A tenant's fair share of a lane."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tidings.model.vocabulary import Priority
from tidings.policy.shares import MOST_REMEMBERED, ShareRules, Shares

RULES = ShareRules(per_second=10, burst=20)
NORMAL = Priority.NORMAL
TAKES = st.lists(st.tuples(st.integers(0, 5_000), st.integers(1, 100)), max_size=50)


@given(TAKES)
def test_a_share_never_exceeds_its_burst_and_rate(takes: list[tuple[int, int]]) -> None:
    shares, now, within = Shares(RULES), 0, 0
    for pause, count in takes:
        now += pause
        got = shares.take("a", NORMAL, count, now)
        assert 0 <= got <= count
        within += got
    assert within <= RULES.burst + now * RULES.per_second / 1000


@given(TAKES)
def test_a_tenant_takes_only_from_its_own_share_in_its_own_lane(takes: list[tuple[int, int]]) -> None:
    shares, now = Shares(RULES), 0
    for pause, count in takes:
        now += pause
        shares.take("a", NORMAL, count, now, owing=True)
    assert shares.take("b", NORMAL, RULES.burst, now) == RULES.burst
    assert shares.take("a", Priority.CRITICAL, RULES.burst, now) == RULES.burst


def test_a_batch_is_split() -> None:
    shares = Shares(RULES)
    assert shares.take("a", NORMAL, 50, 0) == 20
    assert shares.take("a", NORMAL, 50, 1_000) == 10
    assert shares.take("a", NORMAL, 5, 60_000) == 5


def test_a_debt_is_paid_off_before_there_is_a_share_again() -> None:
    shares = Shares(RULES)
    assert shares.cover("a", NORMAL, 1_000, 0), "a batch that is larger than a burst needs a whole one"
    assert shares.take("a", NORMAL, 50, 0, owing=True) == 20
    assert not shares.cover("a", NORMAL, 1, 3_000)
    assert shares.take("a", NORMAL, 1, 3_000) == 0
    assert shares.cover("a", NORMAL, 1, 3_100)


def test_without_shares_everything_is_within() -> None:
    shares = Shares(ShareRules(per_second=0))
    assert not shares.exist
    assert shares.take("a", NORMAL, 1_000_000, 0) == 1_000_000
    assert shares.cover("a", NORMAL, 1_000_000, 0)


def test_however_many_tenants_there_are_only_some_are_remembered() -> None:
    shares = Shares(RULES)
    for number in range(3 * MOST_REMEMBERED):
        shares.take(f"t{number}", NORMAL, 1, number * 10)
        assert len(shares._buckets) <= MOST_REMEMBERED
    spent = 3 * MOST_REMEMBERED * 10
    shares.take("busy", NORMAL, 20, spent)
    for number in range(MOST_REMEMBERED):
        shares.cover(f"u{number}", NORMAL, 1, spent + 1)
    assert shares.take("busy", NORMAL, 20, spent + 1) == 0, "who is in debt is not forgotten for those who are not"
