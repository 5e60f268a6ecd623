from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidings.backends.kafka.progress import MOST_TEXT_BYTES, Progress, Runs, runs_of

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


def test_empty_offsets_do_not_stop_the_prefix() -> None:
    progress = arrived(0, 3)
    assert progress.arrives(5)
    progress.finish([(0, 3)])
    assert progress.base == 5
    progress.finish([(5, 6)])
    assert progress.base == 6


def test_unknown_progress_marks_every_item_as_begun() -> None:
    progress = Progress.unknown(5, 8)
    later = Progress(progress.base, progress.metadata())
    for known in (progress, later):
        assert [offset for offset in range(5, 12) if known.arrives(offset)] == list(range(5, 12))
        assert [offset for offset in range(5, 12) if known.marked(offset)] == [5, 6, 7]
    assert Progress.unknown(5, 5).metadata() == "b=;d="


@pytest.mark.parametrize("text", ["", "of another client", "b=1+;d=", "b=1+2", "d=;b=", "b=1+2,;d="])
def test_the_text_of_another_tool_is_recognised(text: str) -> None:
    assert not Progress.wrote(text)
    assert not Progress(7, text).marked(7)


def test_a_text_of_the_next_version_is_read() -> None:
    assert Progress.wrote("b=0+2;d=3+1;e=7")
    assert Progress(7, "b=0+2;d=3+1;e=7").marked(8)


def test_an_offset_that_arrives_twice_is_handed_out_once() -> None:
    progress = arrived(10, 5)
    assert not progress.arrives(12)
    assert progress.arrives(15)


def test_begun_items_come_back_marked_and_done_items_do_not_come_back() -> None:
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
    handed = after_a_crash(progress, range(10**12, 10**12 + count))
    assert {start for start, _ in even} <= set(handed)
    assert all(handed.values())
    assert count - len(handed) > 150, "the text holds as many done runs as fit"


def after_a_crash(progress: Progress, offsets: Iterable[int]) -> dict[int, bool]:
    """The offsets that the next client hands out, each with its mark."""
    text = progress.metadata()
    assert len(text) <= MOST_TEXT_BYTES
    later = Progress(progress.base, text)
    return {offset: later.marked(offset) for offset in offsets if later.arrives(offset)}


@pytest.mark.parametrize("count", [99, 101, 500])
def test_done_here_and_there_never_comes_back_unmarked(count: int) -> None:
    progress = arrived(0, 2 * count + 1)
    progress.begin([(2 * number + 1, 2 * number + 2) for number in range(count)])
    progress.finish([(2 * number + 1, 2 * number + 2) for number in range(count)])
    handed = after_a_crash(progress, range(2 * count + 1))
    assert all(handed[offset] for offset in handed if offset % 2)
    assert set(range(0, 2 * count + 1, 2)) <= set(handed)


lengths = st.lists(st.tuples(st.sampled_from(["begun", "done", "neither"]), st.integers(1, 2000)), max_size=1500)


@given(st.integers(0, 2**62), lengths)
@settings(max_examples=60, deadline=None)
def test_the_text_fits_and_errs_on_the_safe_side_for_any_number_of_runs(
    base: int, lengths: list[tuple[str, int]]
) -> None:
    runs: dict[str, list[tuple[int, int]]] = {"begun": [], "done": [], "neither": [(base, base + 1)]}
    end = base + 1
    for kind, length in lengths:
        runs[kind].append((end, end + length))
        end += length
    progress = Progress(base, "")
    progress.begin([*runs["begun"], *runs["done"]])
    progress.finish(runs["done"])
    text = progress.metadata()
    assert len(text) <= MOST_TEXT_BYTES
    later = Progress(base, text)
    for kind, known in runs.items():
        for start, stop in known:
            for offset in {start, (start + stop) // 2, stop - 1}:
                back, marked = offset not in later._done, later.marked(offset)
                assert back or kind == "done", "an item that is not done is never lost"
                assert marked or not back or kind == "neither", (
                    "an item that was begun or done never comes back unmarked"
                )
    again = Progress(later.base, later.metadata())
    assert list(again._done) == list(later._done)
    assert list(again._begun) == list(later._begun)


@given(st.data())
def test_no_sequence_of_steps_loses_a_mark_or_commits_an_undone_item(data: st.DataObject) -> None:
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
