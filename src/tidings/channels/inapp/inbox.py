"""The inbox of Tidings itself: an item for the user to read in the product."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from typing import ClassVar

from tidings.channels.http import brief
from tidings.channels.parallel import NOT_BEGUN, in_parallel
from tidings.channels.settings import ProviderConfig
from tidings.channels.tools import Tools
from tidings.model.errors import SettingsError, Unavailable
from tidings.model.history import InboxItem
from tidings.model.sending import InappDelivery, SendResult, Sent, Uncertain
from tidings.ports.provider import InappProvider

WRITES = 4
"""Tenants that one call writes for at once."""
WRITE_S = 7.0
"""Seconds that one write may take, and after which a call begins no other: together less than its `timeout`."""


class InboxConfig(ProviderConfig):
    """`providers.inbox`: there is nothing to set."""


class Inbox(InappProvider):
    """Writes into the store; what is written is delivered. An item that is there already stays as it is."""

    kind = "inbox"
    Config: ClassVar[type[InboxConfig]] = InboxConfig
    batch_size = 500
    concurrency = 8
    idempotent = True
    timeout = 15.0

    def __init__(self, config: InboxConfig, tools: Tools) -> None:
        """Write through `tools.inbox`. Raises SettingsError when there is none."""
        if tools.inbox is None:
            raise SettingsError("the provider inbox needs a store to write into, and this process has none.")
        self.name = tools.name
        self._inbox = tools.inbox
        self._clock = tools.clock

    async def send(self, batch: Sequence[InappDelivery]) -> Sequence[SendResult]:
        """One write for each tenant; its items stand or fall together, and no other tenant's with them."""
        by_tenant: dict[str, list[int]] = defaultdict(list)
        for place, delivery in enumerate(batch):
            by_tenant[delivery.tenant].append(place)
        now = self._clock.now()
        not_begun: SendResult = NOT_BEGUN
        results = [not_begun] * len(batch)
        written = await in_parallel(
            list(by_tenant.items()),
            lambda one: self._write(one[0], [_item(batch[place], now) for place in one[1]]),
            not_begun,
            limit=WRITES,
            within=WRITE_S,
        )
        for places, result in zip(by_tenant.values(), written, strict=True):
            for place in places:
                results[place] = result
        return results

    async def _write(self, tenant: str, items: Sequence[InboxItem]) -> SendResult:
        """What became of a tenant's items. Where it fails, the answer may have been lost alone."""
        try:
            async with asyncio.timeout(WRITE_S):
                await self._inbox.add(tenant, items)
        except Unavailable as error:
            return Uncertain("store_unavailable", brief(str(error)))
        except TimeoutError:
            return Uncertain("store_unavailable", f"no answer within {WRITE_S:g} s")
        except Exception as error:
            return Uncertain("provider_error", brief(repr(error)))
        return Sent(delivered=True)

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
