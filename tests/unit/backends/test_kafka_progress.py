from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from tidings.backends.kafka.progress import MOST_RUNS, Progress, Runs, runs_of

run = st.tuples(st.integers(0, 60), st.integers(0, 12)).map(lambda pair: (pair[0], pair[0] + pair[1]))
steps = st.lists(st.tuples(st.sampled_from(["add", "discard"]), run), max_size=30)


def offsets(runs: Runs) -> set[int]:
    return {offset for start, end in runs for offset in range(start, end)}


@given(steps)
def test_runs_are_a_set_of_offsets(steps: list[tuple[str, tuple[int, int]]]) -> None:
    runs, model = Runs(), set[int]()
    for step, (start, end) in steps:
        getattr(runs, step)(start, end)
        model = model | set(range(start, end)) if step == "add" else model - set(range(start, end))
        assert offsets(runs) == model
        assert len(runs) == len(model)
        kept = list(runs)
        assert all(left[1] < right[0] for left, right in pairwise(kept))
        assert all((offset in runs) == (offset in model) for offset in range(-1, 75))


@given(st.sets(st.integers(0, 100)))
def test_offsets_as_runs(chosen: set[int]) -> None:
    assert offsets(Runs(runs_of(sorted(chosen)))) == chosen


def arrived(base: int, count: int) -> Progress:
    progress = Progress(base)
    assert all(progress.arrives(offset) for offset in range(base, base + count))
    return progress


def test_only_the_contiguous_done_prefix_is_committed() -> None:
    progress = arrived(1000, 30)
    progress.finish([(1010, 1020)])
    assert progress.base == 1000
    progress.finish([(1000, 1005)])
    assert progress.base == 1005
    progress.finish([(1005, 1010)])
    assert progress.base == 1020


def test_a_fresh_group_starts_where_the_first_item_is() -> None:
    progress = Progress()
    assert progress.base is None
    assert progress.arrives(7)
    assert progress.base == 7


def test_offsets_that_hold_nothing_do_not_hold_up_the_prefix() -> None:
    progress = arrived(0, 3)
    assert progress.arrives(5)
    progress.finish([(0, 3)])
    assert progress.base == 5
    progress.finish([(5, 6)])
    assert progress.base == 6


def test_a_log_that_was_made_anew_is_read_from_its_start() -> None:
    progress = Progress(1000, "b=0+5;d=10+5")
    assert progress.arrives(0)
    assert progress.base == 0
    assert not progress.marked(0)
    assert [offset for offset in range(1, 1020) if not progress.arrives(offset)] == []


def test_an_offset_that_arrives_twice_is_handed_out_once() -> None:
    progress = arrived(10, 5)
    assert not progress.arrives(12)
    assert progress.arrives(15)


def test_what_was_begun_comes_back_marked_and_what_was_done_does_not_come_back() -> None:
    progress = arrived(1000, 30)
    progress.begin([(1000, 1020)])
    progress.finish([(1004, 1008)])
    progress.forget([(1012, 1014)])
    later = Progress(progress.base, progress.metadata())
    out = [offset for offset in range(1000, 1030) if later.arrives(offset)]
    assert out == [*range(1000, 1004), *range(1008, 1030)]
    assert [offset for offset in out if later.marked(offset)] == [
        *range(1000, 1004), *range(1008, 1012), *range(1014, 1020),
    ]  # fmt: skip
    later.finish([(1000, 1004), (1008, 1010)])
    assert later.base == 1010


def test_a_mark_outlives_giving_back_and_further_crashes() -> None:
    progress = arrived(0, 10)
    progress.begin([(0, 4)])
    for _ in range(3):
        progress = Progress(progress.base, progress.metadata())
        assert [offset for offset in range(10) if progress.arrives(offset) and progress.marked(offset)] == [0, 1, 2, 3]
        progress.begin([(0, 10)])
        progress.forget([(0, 10)])


def test_a_lease_that_ran_out_marks() -> None:
    progress = arrived(0, 4)
    progress.begin([(0, 2)])
    assert not progress.marked(0)
    progress.mark([(0, 2)])
    assert progress.marked(0)
    progress.forget([(0, 2)])
    assert Progress(progress.base, progress.metadata()).marked(1)


def test_a_long_text_is_cut_on_the_safe_side() -> None:
    count = 5000
    progress = arrived(10**12, count)
    even = [(10**12 + number, 10**12 + number + 1) for number in range(0, count, 2)]
    odd = [(10**12 + number, 10**12 + number + 1) for number in range(1, count, 2)]
    progress.begin(even)
    progress.finish(odd)
    text = progress.metadata()
    assert len(text) < 4096
    later = Progress(progress.base, text)
    handed = [offset for offset in range(10**12, 10**12 + count) if later.arrives(offset)]
    assert {start for start, _ in even} <= set(handed)
    assert all(later.marked(start) for start, _ in even)
    assert count - len(handed) == MOST_RUNS


@given(st.data())
def test_any_mixture_loses_no_mark_and_commits_nothing_undone(data: st.DataObject) -> None:
    count = 40
    progress, begun, done = arrived(0, count), set[int](), set[int]()
    for _ in range(data.draw(st.integers(0, 25))):
        step = data.draw(st.sampled_from(["begin", "forget", "finish"]))
        chosen = set(data.draw(st.sets(st.integers(0, count - 1), min_size=1, max_size=8))) - done
        if step != "begin":
            chosen &= begun
        getattr(progress, step)(runs_of(sorted(chosen)))
        if step == "begin":
            begun |= chosen
        else:
            begun -= chosen
        if step == "finish":
            done |= chosen
    base = progress.base
    assert base is not None
    assert set(range(base)) <= done
    later = Progress(base, progress.metadata())
    handed = {offset for offset in range(base, count) if later.arrives(offset)}
    assert handed == set(range(count)) - done
    assert {offset for offset in handed if later.marked(offset)} == begun


def test_the_text_of_another_client_says_nothing() -> None:
    progress = Progress(7, "of another client")
    assert progress.arrives(7)
    assert not progress.marked(7)
