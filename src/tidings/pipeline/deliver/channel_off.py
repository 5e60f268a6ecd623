"""A channel that is turned off: what waits for it in a queue is suppressed, and its alternatives take over."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from tidings.model.delivery import Delivery
from tidings.model.outcome import Outcome
from tidings.model.vocabulary import Reason, State
from tidings.pipeline.deliver.attempts import end, fact
from tidings.pipeline.runtime.beginning import Begin
from tidings.pipeline.runtime.categories import Categories
from tidings.pipeline.runtime.packs import pack
from tidings.pipeline.runtime.reader import Taken
from tidings.ports.clock import Clock
from tidings.ports.queue import Item


class ChannelOff:
    """Stands where `deliver` stands for a channel with providers. Its only effect is its outputs."""

    def __init__(self, categories: Categories, clock: Clock) -> None:
        self._categories = categories
        self._clock = clock

    async def __call__(self, batch: Sequence[Taken[Delivery]], _begin: Begin) -> list[Item]:
        """`suppressed: channel_off` for each delivery, or what comes after it."""
        await self._categories.load({taken.value.tenant for taken in batch})
        now = self._clock.now()
        outcomes = [outcome for taken in batch for outcome in self._ended(taken, now)]
        return pack(outcomes)

    def _ended(self, taken: Taken[Delivery], now: int) -> list[Outcome]:
        delivery = taken.value
        if taken.begun:  # it was being sent when the channel was turned off
            delivery = msgspec.structs.replace(delivery, doubtful=True)
        category = self._categories.get(delivery.tenant, delivery.category)
        return end(delivery, category, fact(delivery, now, State.SUPPRESSED, Reason.CHANNEL_OFF), now)
