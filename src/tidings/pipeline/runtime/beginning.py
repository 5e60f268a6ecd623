"""Beginning items of a claim: concurrent calls share one round trip to the queue."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from typing import TypeAlias

from tidings.model.errors import Unavailable
from tidings.ports.queue import Claim

Begin: TypeAlias = Callable[[Collection[int]], Awaitable[None]]
"""Durably marks the items at these places of the claim as begun. Raises as `Claim.begin`."""


class _Round:
    """The places that one call of `Claim.begin` marks."""

    def __init__(self) -> None:
        self.places: set[int] = set()
        self.error: Exception | None = None


class Beginning:
    """Begins items of `claim`. Requests that come while a call to the queue is under way share the next call.

    `places`: the places that are known to be begun.
    """

    def __init__(self, claim: Claim) -> None:
        self.places: set[int] = set()
        self._claim = claim
        self._turn = asyncio.Lock()
        self._collecting = _Round()

    async def begin(self, places: Collection[int]) -> None:
        """Return once these places are begun. Raises LeaseLost or Unavailable: then do not hand the items over."""
        mine = self._collecting
        mine.places.update(places)
        async with self._turn:
            if mine is self._collecting:
                self._collecting = _Round()
                await self._begin(mine)
        if mine.error is not None:
            raise mine.error

    async def _begin(self, round_: _Round) -> None:
        try:
            await self._claim.begin(sorted(round_.places))
        except Exception as error:
            round_.error = error
        except BaseException:
            round_.error = Unavailable("the call that was to begin these items was cancelled")
            raise
        else:
            self.places |= round_.places
