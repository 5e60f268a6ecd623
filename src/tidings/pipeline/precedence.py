"""Surplus takes what the others leave: beside work of other tenants, within their shares, it goes in small batches."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeVar

from tidings.model.vocabulary import Lane
from tidings.pipeline.stage import Taken
from tidings.ports.clock import Clock

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
R = TypeVar("R")


class Precedence:
    """Notes whom a process works for, and bounds the surplus while there are others than those who have it.

    The surplus always goes on: what is within the shares is bounded by them, and leaves room.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._others_at = -QUIET
        self._surplus_at: dict[str, int] = {}

    def noting(
        self, lane: Lane, work: Callable[[Sequence[Taken[T]]], Awaitable[R]]
    ) -> Callable[[Sequence[Taken[T]]], Awaitable[R]]:
        """`work`, with a note of whom it is for."""

        async def noted(batch: Sequence[Taken[T]]) -> R:
            tenants = {taken.value.tenant for taken in batch}
            now = self._clock.elapsed()
            if lane.is_surplus:
                if len(self._surplus_at) >= _MOST_REMEMBERED:
                    self._surplus_at.clear()
                self._surplus_at.update(dict.fromkeys(tenants, now))
            elif any(now - self._surplus_at.get(tenant, -QUIET) >= QUIET for tenant in tenants):
                self._others_at = now
            return await work(batch)

        return noted

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
