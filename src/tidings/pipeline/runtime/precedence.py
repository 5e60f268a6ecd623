"""Precedence: while tenants within their share have work, surplus is worked on in small batches."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Generic, Protocol, TypeAlias, TypeVar

from tidings.model.vocabulary import Lane
from tidings.pipeline.runtime.beginning import Begin
from tidings.pipeline.runtime.reader import Claimed, Partly
from tidings.ports.clock import Clock
from tidings.ports.queue import Item

SMALL_BATCH = 100
"""Items in a batch of surplus while there is other work, so that the event loop is soon free for that."""
QUIET_AFTER_MS = 2_000
"""Milliseconds without other work after which surplus goes in full batches."""
_MOST_REMEMBERED = 1_000


class Owned(Protocol):
    """A value that belongs to a tenant."""

    @property
    def tenant(self) -> str:
        """The tenant."""
        ...


T = TypeVar("T", bound=Owned)
Work: TypeAlias = Callable[[Sequence[Claimed[T]], Begin], Awaitable[Sequence[Item] | Partly]]
"""A stage, as a reader calls it."""


class Noted(Generic[T]):
    """A stage's work that reports each batch to `note` before it begins."""

    def __init__(self, work: Work[T], note: Callable[[Sequence[Claimed[T]]], None]) -> None:
        self.work = work
        self._note = note

    async def __call__(self, batch: Sequence[Claimed[T]], begin: Begin) -> Sequence[Item] | Partly:
        """The result of `work`."""
        self._note(batch)
        return await self.work(batch, begin)


class Precedence:
    """Notes which tenants a process works for, and keeps batches of surplus small while other tenants have work.

    Surplus is never stopped: work within the shares is bounded by the shares, and leaves room.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._others_at = -QUIET_AFTER_MS
        self._surplus_at: dict[str, int] = {}

    def noting(self, lane: Lane, work: Work[T]) -> Noted[T]:
        """`work`, noting the tenants of each batch."""
        return Noted(work, partial(self._note, lane))

    def _note(self, lane: Lane, batch: Sequence[Claimed[T]]) -> None:
        tenants = {claimed.value.tenant for claimed in batch}
        now = self._clock.elapsed()
        if lane.is_surplus:
            if len(self._surplus_at) >= _MOST_REMEMBERED:
                self._surplus_at.clear()
            self._surplus_at.update(dict.fromkeys(tenants, now))
        elif any(now - self._surplus_at.get(tenant, -QUIET_AFTER_MS) >= QUIET_AFTER_MS for tenant in tenants):
            self._others_at = now

    def is_quiet(self) -> bool:
        """Whether for `QUIET_AFTER_MS` only tenants with surplus have had work."""
        return self._clock.elapsed() - self._others_at >= QUIET_AFTER_MS

    def room(self, lane: Lane, most: int, room: Callable[[], int] | None = None) -> Callable[[], int] | None:
        """A function that gives the size of this lane's next batch: at most `most`, and at most `room()`."""
        if not lane.is_surplus:
            return room

        def bounded() -> int:
            size = most if self.is_quiet() else min(most, SMALL_BATCH)
            return size if room is None else min(size, room())

        return bounded
