"""What a claimer and its lane's thread share."""

from __future__ import annotations

import asyncio

from tidings.backends.kafka.ledger import Batch


class Request:
    """A claimer that waits for items. `batch` is set when they are on their way to it."""

    def __init__(self, max_items: int, lease: float | None) -> None:
        self.max_items = max_items
        self.lease = lease
        self.loop = asyncio.get_running_loop()
        self.answer: asyncio.Future[Batch] = self.loop.create_future()
        self.abandoned = False
        self.taken = False
