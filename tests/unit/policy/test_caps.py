from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from tidings.model.user import Cap
from tidings.policy.caps import Count, Passed, forbidding, kept, kept_for_ms, take

SECOND = 1000
START = 1_700_000_000_000

caps = st.lists(st.builds(Cap, st.integers(1, 5), st.integers(1, 60)), min_size=1, max_size=3).map(tuple)
gaps = st.lists(st.integers(0, 20 * SECOND), max_size=60)


def instants(gaps: Iterable[int]) -> list[int]:
    at, instants = START, []
    for gap in gaps:
        at += gap
        instants.append(at)
    return instants


def ask(known: dict[bytes, Passed], *counts: Count, now: int) -> bool:
    """Judge one request, update `known`, and return whether it passes."""
    [verdict], changed = take([counts], known, now)
    known |= changed
    return verdict is None


@given(caps, gaps)
def test_no_window_ever_holds_more_than_its_cap(caps: tuple[Cap, ...], gaps: list[int]) -> None:
    known: dict[bytes, Passed] = {}
    passed = [at for number, at in enumerate(instants(gaps)) if ask(known, Count(b"s", UUID(int=number), caps), now=at)]
    for cap in caps:
        for at in passed:
            assert sum(at - cap.seconds * SECOND < other <= at for other in passed) <= cap.count


@given(caps, gaps, st.integers(0, 30 * SECOND))
def test_a_forbidden_request_passes_at_its_due_time_and_not_before(
    caps: tuple[Cap, ...], gaps: list[int], later: int
) -> None:
    passed = instants(gaps)
    now = (passed[-1] if passed else START) + later
    forbidden = forbidding(passed, caps, now)
    if forbidden is None:
        assert all(sum(at > now - cap.seconds * SECOND for at in passed) < cap.count for cap in caps)
        return
    cap, due = forbidden
    assert due > now
    assert cap in caps
    assert forbidding(passed, caps, due - 1) is not None
    assert forbidding(passed, caps, due) is None


@given(caps, st.lists(st.tuples(st.integers(0, 5), st.integers(0, 40 * SECOND)), max_size=40))
def test_an_id_that_comes_again_is_counted_once(caps: tuple[Cap, ...], asked: list[tuple[int, int]]) -> None:
    known: dict[bytes, Passed] = {}
    at, passed = START, list[tuple[int, int]]()
    for number, gap in asked:
        at += gap
        latest = dict(passed)
        counts_still = number in latest and all(at - latest[number] < cap.seconds * SECOND for cap in caps)
        if ask(known, Count(b"s", UUID(int=number), caps), now=at):
            passed.append((number, at))
            assert known[b"s"][UUID(int=number)] == at
        else:
            assert not counts_still
    for cap in caps:
        for _, end in passed:
            within = {number for number, at in passed if end - cap.seconds * SECOND < at <= end}
            assert len(within) <= cap.count, "however often each of them came"


@given(caps, caps, st.lists(st.tuples(st.integers(0, 9), st.booleans(), st.integers(0, 5 * SECOND)), max_size=40))
def test_a_request_passes_in_all_of_its_counts_or_in_none(
    some: tuple[Cap, ...], others: tuple[Cap, ...], asked: list[tuple[int, bool, int]]
) -> None:
    known: dict[bytes, Passed] = {}
    at = START
    for number, both, gap in asked:
        at += gap
        counts = [Count(b"a", UUID(int=number), some), Count(b"b", UUID(int=number), others)]
        before = dict(known)
        passes = ask(known, *(counts if both else counts[:1]), now=at)
        if not passes:
            assert known == before
        elif both:
            assert UUID(int=number) in known[b"a"].keys() & known[b"b"].keys()


@given(caps, st.integers(1, 30))
def test_held_requests_pass_one_after_the_other_at_their_due_times(caps: tuple[Cap, ...], many: int) -> None:
    known: dict[bytes, Passed] = {}
    requests = [[Count(b"s", UUID(int=number), caps, holds=True)] for number in range(many)]
    verdicts, changed = take(requests, known, START)
    known |= changed
    dues = [START if verdict is None else verdict.due for verdict in verdicts]
    assert dues == sorted(dues)
    for number, due in enumerate(dues):
        assert ask(known, Count(b"s", UUID(int=number), caps, holds=True), now=due)


@given(caps, gaps, st.integers(0, 120 * SECOND))
def test_dropped_instants_no_longer_count(caps: tuple[Cap, ...], gaps: list[int], later: int) -> None:
    passed = {UUID(int=number): at for number, at in enumerate(instants(gaps))}
    now = max(passed.values(), default=START) + later
    left = kept(passed, caps, now)
    assert forbidding(sorted(left.values()), caps, now) == forbidding(sorted(passed.values()), caps, now)
    assert all(at > now - kept_for_ms(caps) for at in left.values())


def test_a_cap_that_drops_decides_before_one_that_holds() -> None:
    one = (Cap(1, 60),)
    counts = [
        Count(b"held", UUID(int=2), one, holds=True),
        Count(b"dropped", UUID(int=2), one),
    ]
    known = {b"held": {UUID(int=1): START}, b"dropped": {UUID(int=1): START - 1}}
    [verdict], changed = take([counts], known, START)
    assert verdict is not None
    assert (verdict.place, verdict.cap) == (1, one[0])
    assert changed == {}
