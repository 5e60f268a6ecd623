"""Many seeds over several cores."""

from __future__ import annotations

import itertools
import multiprocessing
import time
from collections import deque
from collections.abc import Iterator
from functools import partial

from tidings.sections import Delivering
from tidings.simulation.run import Report, simulate_all, simulate_each

SEEDS_PER_PART = 25
"""How many seeds a process gets at a time."""


def simulate_seeds(
    first: int, count: int | None, delivering: Delivering | None = None, *, cores: int = 1, seconds: float | None = None
) -> Iterator[Report]:
    """Reports of `count` seeds from `first` on, in order; with `count` None, until `seconds` have passed."""
    deadline = None if seconds is None else time.monotonic() + seconds

    def parts() -> Iterator[range]:
        begin = first
        while count is None or begin < first + count:
            end = begin + SEEDS_PER_PART if count is None else min(begin + SEEDS_PER_PART, first + count)
            yield range(begin, end)
            begin = end

    if cores == 1:
        for report in simulate_each(itertools.chain.from_iterable(parts()), delivering):
            yield report
            if deadline is not None and time.monotonic() >= deadline:
                return
        return
    run = partial(simulate_all, delivering=delivering)
    with multiprocessing.get_context("spawn").Pool(cores) as pool:
        for reports in _bounded(pool, run, parts(), 2 * cores):
            yield from reports
            if deadline is not None and time.monotonic() >= deadline:
                return


def _bounded(
    pool: multiprocessing.pool.Pool, run: partial[list[Report]], parts: Iterator[range], ahead: int
) -> Iterator[list[Report]]:
    """The results of the parts, in order. At most `ahead` parts are handed out at a time: `parts` may be endless."""
    waiting = deque(pool.apply_async(run, (part,)) for part in itertools.islice(parts, ahead))
    while waiting:
        yield waiting.popleft().get()
        waiting.extend(pool.apply_async(run, (part,)) for part in itertools.islice(parts, 1))
