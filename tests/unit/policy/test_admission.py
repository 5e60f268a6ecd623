from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tidings.model.vocabulary import Lane
from tidings.policy.admission import AdmissionRules, Load, refusal

RULES = AdmissionRules(in_memory=1000, lag_s=0.5, backlog=10_000)
LOADS = st.builds(
    Load,
    st.integers(0, 2_000),
    st.floats(0, 2),
    st.fixed_dictionaries({lane: st.integers(0, 20_000) for lane in Lane}),
)


def refused(load: Load) -> list[Lane]:
    return [lane for lane in Lane if refusal(lane, load, RULES) is not None]


WITHIN = [lane for lane in Lane if not lane.is_surplus]


@given(LOADS)
def test_the_less_urgent_is_always_turned_away_first(load: Load) -> None:
    within = [lane for lane in refused(load) if lane in WITHIN]
    assert within in ([], [Lane.BULK], [Lane.NORMAL, Lane.BULK], WITHIN)


@given(LOADS)
def test_surplus_is_turned_away_before_what_is_within_the_share_of_the_same_lane(load: Load) -> None:
    turned_away = set(refused(load))
    assert {lane.surplus for lane in turned_away} <= turned_away


@given(LOADS, LOADS)
def test_more_load_lets_nobody_in_who_was_turned_away(one: Load, other: Load) -> None:
    both = Load(
        max(one.in_memory, other.in_memory),
        max(one.lag_s, other.lag_s),
        {lane: max(one.backlog[lane], other.backlog[lane]) for lane in Lane},
    )
    assert set(refused(one)) <= set(refused(both))


def test_which_lanes_each_kind_of_load_turns_away() -> None:
    def load(in_memory: int = 0, lag_s: float = 0.0, **backlog: int) -> Load:
        return Load(in_memory, lag_s, {Lane(lane.replace("_", ".")): count for lane, count in backlog.items()})

    assert refused(load()) == []
    bulk, normal = ([lane, lane.surplus] for lane in (Lane.BULK, Lane.NORMAL))
    assert refused(load(in_memory=400)) == [Lane.BULK_SURPLUS]
    assert refused(load(in_memory=500)) == bulk
    assert refused(load(in_memory=600)) == [Lane.NORMAL_SURPLUS, *bulk]
    assert refused(load(in_memory=800)) == [*normal, *bulk]
    assert refused(load(in_memory=900)) == [Lane.CRITICAL_SURPLUS, *normal, *bulk]
    assert refused(load(in_memory=1000)) == list(Lane)
    assert refused(load(lag_s=0.28)) == bulk
    assert refused(load(lag_s=9.0)) == [*normal, *bulk], "critical is not turned away for slowness"
    assert refused(load(lag_s=0.25)) == [Lane.BULK_SURPLUS]
    assert refused(load(lag_s=0.4)) == [Lane.NORMAL_SURPLUS, *bulk]
    assert refused(load(bulk=5_000)) == refused(load(normal=5_000)) == []
    assert refused(load(normal=10_000)) == bulk
    assert refused(load(bulk=5_001)) == bulk, "what bulk leaves lying does not touch the others"
    assert refused(load(bulk=1_000_000)) == bulk
    assert refused(load(normal=10_001)) == [*normal, *bulk]
    assert refused(load(critical=1_000_000)) == [Lane.CRITICAL_SURPLUS, *normal, *bulk]


def test_the_surplus_of_others_turns_away_nobody_within_its_share() -> None:
    def behind(lane: Lane) -> list[Lane]:
        return refused(Load(0, 0.0, {lane: 1_000_000}))

    assert behind(Lane.NORMAL_SURPLUS) == [Lane.NORMAL_SURPLUS, Lane.BULK_SURPLUS]
    assert behind(Lane.BULK_SURPLUS) == [Lane.BULK_SURPLUS]
    assert behind(Lane.CRITICAL_SURPLUS) == [lane for lane in Lane if lane.is_surplus]


def test_the_refusal_of_surplus_names_the_share() -> None:
    assert "exceeds the tenant's share" in str(refusal(Lane.NORMAL_SURPLUS, Load(1_000, 0.0, {}), RULES))
    assert "share" not in str(refusal(Lane.NORMAL, Load(1_000, 0.0, {}), RULES))
