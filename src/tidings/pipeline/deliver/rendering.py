"""Rendering within a time budget: in slices that let other work run in between, and tenant by tenant."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from tidings.model.delivery import Delivery
from tidings.model.errors import TemplateError
from tidings.model.sending import RenderedContent
from tidings.pipeline.runtime.turns import SLICE_MS, in_turn
from tidings.ports.clock import Clock
from tidings.ports.renderer import Renderer

BUDGET_MS = 50
"""Rendering time of a batch. The rest of the batch goes back to the queue."""
_MOST_REMEMBERED = 10_000

Rendered = list[tuple[int, RenderedContent | TemplateError]]
"""Contents (or why there is none), each with the place of its delivery in the batch."""


class Rendering:
    """Renders for all channels and lanes of a process, one batch at a time."""

    def __init__(self, renderer: Renderer, clock: Clock) -> None:
        self._renderer = renderer
        self._clock = clock
        self._lock = asyncio.Lock()
        self._turns = 0
        self._had_turn: dict[str, int] = {}

    async def render(self, batch: Sequence[Delivery]) -> tuple[Rendered, list[int]]:
        """What was rendered within the budget (at least one, unless the batch is empty), and the places of the rest.

        The tenant whose last turn is longest ago comes first, so that one with heavy templates delays nobody else.
        """
        order = in_turn(
            range(len(batch)), lambda place: batch[place].tenant, lambda tenant: self._had_turn.get(tenant, 0)
        )
        contents: list[RenderedContent | TemplateError] = []
        spent = 0
        while len(contents) < len(order) and spent < BUDGET_MS:
            rest = order[len(contents) :]
            async with self._lock:
                began = self._clock.elapsed()
                found = await self._renderer.render([batch[place] for place in rest], SLICE_MS)
                spent += self._clock.elapsed() - began
                self._note([batch[place].tenant for place in rest[: len(found)]])
                if spent:
                    await asyncio.sleep(0)  # holding the lock: other work may run now, but no other batch may render
            contents += found
        return list(zip(order, contents, strict=False)), list(order[len(contents) :])

    def _note(self, tenants: Sequence[str]) -> None:
        self._turns += 1
        if len(self._had_turn) >= _MOST_REMEMBERED:
            self._had_turn.clear()
        self._had_turn.update(dict.fromkeys(tenants, self._turns))
