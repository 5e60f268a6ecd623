"""A channel that is turned off: its queued deliveries are suppressed, and their alternatives take over."""

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
from tidings.pipeline.runtime.reader import Claimed
from tidings.ports.clock import Clock
from tidings.ports.queue import Item


class ChannelOff:
    """Reads the queues of a channel without providers in place of `Deliver`. Its only effect is its outputs."""

    def __init__(self, categories: Categories, clock: Clock) -> None:
        self._categories = categories
        self._clock = clock

    async def __call__(self, batch: Sequence[Claimed[Delivery]], _begin: Begin) -> list[Item]:
        """`suppressed: channel_off` for each delivery (`uncertain` if it was begun); its alternative takes over."""
        await self._categories.load({claimed.value.tenant for claimed in batch})
        now = self._clock.now()
        outcomes = [outcome for claimed in batch for outcome in self._ended(claimed, now)]
        return pack(outcomes)

    def _ended(self, claimed: Claimed[Delivery], now: int) -> list[Outcome]:
        delivery = claimed.value
        if claimed.begun:  # a provider may have been called before the channel was turned off
            delivery = msgspec.structs.replace(delivery, doubtful=True)
        category = self._categories.get(delivery.tenant, delivery.category)
        return end(delivery, category, fact(delivery, now, State.SUPPRESSED, Reason.CHANNEL_OFF), now)
