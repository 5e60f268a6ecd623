"""Beginning items of a claim: many callers, few round trips."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from typing import TypeAlias

from tidings.model.errors import Unavailable
from tidings.ports.queue import Claim

Begin: TypeAlias = Callable[[Collection[int]], Awaitable[None]]
"""Makes durable that the items at these places of the claim are about to be handed over. Raises as `Claim.begin`."""


class _Round:
    """What goes to the queue together."""

    def __init__(self) -> None:
        self.places: set[int] = set()
        self.error: Exception | None = None


class Beginning:
    """Begins items of `claim`. What is asked for while one call of the queue is under way goes with the next.

    `places` are those that are known to be begun.
    """

    def __init__(self, claim: Claim) -> None:
        self.places: set[int] = set()
        self._claim = claim
        self._turn = asyncio.Lock()
        self._collecting = _Round()

    async def begin(self, places: Collection[int]) -> None:
        """Return when these places are begun. Raises LeaseLost and Unavailable: nothing may be handed over then."""
        mine = self._collecting
        mine.places.update(places)
        async with self._turn:
            if mine is self._collecting:
                self._collecting = _Round()
                await self._begin(mine)
        if mine.error is not None:
            raise mine.error

    async def _begin(self, one: _Round) -> None:
        try:
            await self._claim.begin(sorted(one.places))
        except Exception as error:
            one.error = error
        except BaseException:
            one.error = Unavailable("whoever asked the queue was stopped")
            raise
        else:
            self.places |= one.places
