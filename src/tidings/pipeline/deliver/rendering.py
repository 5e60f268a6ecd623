"""Rendering within a budget: in slices, between which the others have their turn, and of each tenant in turn."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from tidings.model.delivery import Delivery
from tidings.model.errors import TemplateError
from tidings.model.sending import RenderedContent
from tidings.pipeline.runtime.turns import SLICE, in_turn
from tidings.ports.clock import Clock
from tidings.ports.renderer import Renderer

MOST_RENDERING = 50
"""Milliseconds that a batch may render."""
_MOST_REMEMBERED = 10_000

Rendered = list[tuple[int, RenderedContent | TemplateError]]
"""Contents with the places of their deliveries in the batch."""


class Rendering:
    """Renders for all channels and lanes of a process, one batch at a time."""

    def __init__(self, renderer: Renderer, clock: Clock) -> None:
        self._renderer = renderer
        self._clock = clock
        self._lock = asyncio.Lock()
        self._turns = 0
        self._had_turn: dict[str, int] = {}

    async def render(self, batch: Sequence[Delivery]) -> tuple[Rendered, list[int]]:
        """What was rendered in time, and the places of what was not; of a batch that is not empty at least one is.

        A tenant whose templates are heavy stands before nobody else: who has not rendered for longest comes first.
        """
        order = in_turn(
            range(len(batch)), lambda place: batch[place].tenant, lambda tenant: self._had_turn.get(tenant, 0)
        )
        contents: list[RenderedContent | TemplateError] = []
        spent = 0
        while len(contents) < len(order) and spent < MOST_RENDERING:
            rest = order[len(contents) :]
            async with self._lock:
                began = self._clock.elapsed()
                found = await self._renderer.render([batch[place] for place in rest], SLICE)
                spent += self._clock.elapsed() - began
                self._note([batch[place].tenant for place in rest[: len(found)]])
                if spent:
                    await asyncio.sleep(0)  # with the lock: no other batch comes in between, but everything else
            contents += found
        return list(zip(order, contents, strict=False)), list(order[len(contents) :])

    def _note(self, tenants: Sequence[str]) -> None:
        self._turns += 1
        if len(self._had_turn) >= _MOST_REMEMBERED:
            self._had_turn.clear()
        self._had_turn.update(dict.fromkeys(tenants, self._turns))
