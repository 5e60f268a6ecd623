"""The provider `inbox`: writes items into the store, for users to read in the product."""

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
"""For how many tenants one call writes at once."""
WRITE_S = 7.0
"""How long one write may take, and a call may begin writes. Twice this time is less than `timeout`."""


class InboxConfig(ProviderConfig):
    """`providers.inbox`: it has no settings of its own."""


class Inbox(InappProvider):
    """Writes items into the store; a written item counts as delivered. An item that is there already stays as it is."""

    kind = "inbox"
    Config: ClassVar[type[InboxConfig]] = InboxConfig
    batch_size = 500
    concurrency = 8
    idempotent = True
    timeout_s = 15.0

    def __init__(self, config: InboxConfig, tools: Tools) -> None:
        """A provider that writes through `tools.inbox`. Raises SettingsError when there is none."""
        if tools.inbox is None:
            raise SettingsError("the provider inbox needs a store to write into, and this process has none.")
        self.name = tools.name
        self._inbox = tools.inbox
        self._clock = tools.clock

    async def send(self, batch: Sequence[InappDelivery]) -> Sequence[SendResult]:
        """Write the items, with one write for each tenant, whose items succeed or fail together."""
        by_tenant: dict[str, list[int]] = defaultdict(list)
        for place, delivery in enumerate(batch):
            by_tenant[delivery.tenant].append(place)
        now = self._clock.now()
        not_begun: SendResult = NOT_BEGUN
        results = [not_begun] * len(batch)
        written = await in_parallel(
            list(by_tenant.items()),
            lambda entry: self._write(entry[0], [_item(batch[place], now) for place in entry[1]]),
            not_begun,
            limit=WRITES,
            within_s=WRITE_S,
        )
        for places, result in zip(by_tenant.values(), written, strict=True):
            for place in places:
                results[place] = result
        return results

    async def _write(self, tenant: str, items: Sequence[InboxItem]) -> SendResult:
        """Write one tenant's items; returns their result. After a failure they may be there nevertheless."""
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
        """Say that there are no credentials to check."""
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
