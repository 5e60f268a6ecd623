"""Surplus takes what the others leave: beside work of other tenants, within their shares, it goes in small batches."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Generic, Protocol, TypeAlias, TypeVar

from tidings.model.vocabulary import Lane
from tidings.pipeline.runtime.beginning import Begin
from tidings.pipeline.runtime.reader import Partly, Taken
from tidings.ports.clock import Clock
from tidings.ports.queue import Item

BESIDE = 100
"""Items of a batch of surplus while there is other work: the loop is soon free for that."""
QUIET = 2_000
"""Milliseconds without other work after which surplus goes in full batches."""
_MOST_REMEMBERED = 1_000


class Owned(Protocol):
    """What belongs to a tenant."""

    @property
    def tenant(self) -> str:
        """The tenant."""
        ...


T = TypeVar("T", bound=Owned)
Work: TypeAlias = Callable[[Sequence[Taken[T]], Begin], Awaitable[Sequence[Item] | Partly]]
"""A stage, as a reader calls it."""


class Noted(Generic[T]):
    """A stage's work that notes each batch before it begins."""

    def __init__(self, work: Work[T], note: Callable[[Sequence[Taken[T]]], None]) -> None:
        self.work = work
        self._note = note

    async def __call__(self, batch: Sequence[Taken[T]], begin: Begin) -> Sequence[Item] | Partly:
        """What `work` gives."""
        self._note(batch)
        return await self.work(batch, begin)


class Precedence:
    """Notes whom a process works for, and bounds the surplus while there are others than those who have it.

    The surplus always goes on: what is within the shares is bounded by them, and leaves room.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._others_at = -QUIET
        self._surplus_at: dict[str, int] = {}

    def noting(self, lane: Lane, work: Work[T]) -> Noted[T]:
        """`work`, with a note of whom it is for."""
        return Noted(work, partial(self._note, lane))

    def _note(self, lane: Lane, batch: Sequence[Taken[T]]) -> None:
        tenants = {taken.value.tenant for taken in batch}
        now = self._clock.elapsed()
        if lane.is_surplus:
            if len(self._surplus_at) >= _MOST_REMEMBERED:
                self._surplus_at.clear()
            self._surplus_at.update(dict.fromkeys(tenants, now))
        elif any(now - self._surplus_at.get(tenant, -QUIET) >= QUIET for tenant in tenants):
            self._others_at = now

    def is_quiet(self) -> bool:
        """Whether nobody else than those with surplus has sent anything for a while."""
        return self._clock.elapsed() - self._others_at >= QUIET

    def room(self, lane: Lane, most: int, room: Callable[[], int] | None = None) -> Callable[[], int] | None:
        """How many items a batch of this lane may have now: up to `most`, and no more than `room` says."""
        if not lane.is_surplus:
            return room

        def bounded() -> int:
            size = most if self.is_quiet() else min(most, BESIDE)
            return size if room is None else min(size, room())

        return bounded
