from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tidings.model.vocabulary import Priority
from tidings.policy.admission import AdmissionRules, Load, refusal

RULES = AdmissionRules(held=1000, lag=0.5, backlog=10_000)
LOADS = st.builds(
    Load,
    st.integers(0, 2_000),
    st.floats(0, 2),
    st.fixed_dictionaries({lane: st.integers(0, 20_000) for lane in Priority}),
)


def refused(load: Load) -> list[Priority]:
    return [lane for lane in Priority if refusal(lane, load, RULES) is not None]


@given(LOADS)
def test_the_less_urgent_is_always_turned_away_first(load: Load) -> None:
    assert refused(load) in ([], [Priority.BULK], [Priority.NORMAL, Priority.BULK], list(Priority))


@given(LOADS, LOADS)
def test_more_load_lets_nobody_in_who_was_turned_away(one: Load, other: Load) -> None:
    both = Load(
        max(one.held, other.held),
        max(one.lag, other.lag),
        {lane: max(one.backlog[lane], other.backlog[lane]) for lane in Priority},
    )
    assert set(refused(one)) <= set(refused(both))


def test_who_is_turned_away_for_what() -> None:
    def load(held: int = 0, lag: float = 0.0, **backlog: int) -> Load:
        return Load(held, lag, {Priority(lane): count for lane, count in backlog.items()})

    assert refused(load()) == []
    assert refused(load(held=500)) == [Priority.BULK]
    assert refused(load(held=800)) == [Priority.NORMAL, Priority.BULK]
    assert refused(load(held=1000)) == list(Priority)
    assert refused(load(lag=0.3)) == [Priority.BULK]
    assert refused(load(lag=9.0)) == [Priority.NORMAL, Priority.BULK], "critical is not turned away for slowness"
    assert refused(load(bulk=5_001)) == [Priority.BULK], "what bulk leaves lying does not touch the others"
    assert refused(load(bulk=1_000_000)) == [Priority.BULK]
    assert refused(load(normal=10_001)) == [Priority.NORMAL, Priority.BULK]
    assert refused(load(critical=1_000_000)) == [Priority.NORMAL, Priority.BULK]
