"""The inbox of Tidings itself: an item for the user to read in the product."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import ClassVar

from tidings.channels.http import brief
from tidings.channels.settings import ProviderConfig
from tidings.channels.tools import Tools
from tidings.model.errors import SettingsError, Unavailable
from tidings.model.history import InboxItem
from tidings.model.sending import InappDelivery, SendResult, Sent, Uncertain
from tidings.ports.provider import InappProvider


class InboxConfig(ProviderConfig):
    """`providers.inbox`: there is nothing to set."""


class Inbox(InappProvider):
    """Writes into the store; what is written is delivered. An item that is there already stays as it is."""

    kind = "inbox"
    Config: ClassVar[type[InboxConfig]] = InboxConfig
    batch_size = 500
    concurrency = 8
    idempotent = True

    def __init__(self, config: InboxConfig, tools: Tools) -> None:
        """Write through `tools.inbox`. Raises SettingsError when there is none."""
        if tools.inbox is None:
            raise SettingsError("the provider inbox needs a store to write into, and this process has none.")
        self.name = tools.name
        self._inbox = tools.inbox
        self._clock = tools.clock

    async def send(self, batch: Sequence[InappDelivery]) -> Sequence[SendResult]:
        """One write for each tenant; its items stand or fall together."""
        by_tenant: dict[str, list[int]] = defaultdict(list)
        for place, delivery in enumerate(batch):
            by_tenant[delivery.tenant].append(place)
        now = self._clock.now()
        results: list[SendResult] = [Sent(delivered=True)] * len(batch)
        for tenant, places in by_tenant.items():
            try:
                await self._inbox.add(tenant, [_item(batch[place], now) for place in places])
            except Unavailable as error:
                failed = Uncertain("store_unavailable", brief(str(error)))  # the answer may have been lost alone
                for place in places:
                    results[place] = failed
        return results

    async def check(self) -> str:
        """There are no credentials."""
        return "The inbox is part of the store and needs no credentials."


def _item(delivery: InappDelivery, now: int) -> InboxItem:
    content = delivery.content
    return InboxItem(
        id=delivery.id,
        user_id=delivery.to,
        title=content.title,
        body=content.body,
        link=content.link,
        category=delivery.category,
        created_at=now,
    )
