"""Putting due items: together, and one by one if the queue refuses some of them."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import structlog

from tidings.model.errors import Unavailable
from tidings.pipeline.runtime.reader import REPEATED
from tidings.pipeline.runtime.sharing import shared_out
from tidings.pipeline.schedule.waking import Lease
from tidings.policy.shares import Shares
from tidings.ports.clock import Clock
from tidings.ports.queue import Item, Queue

_log = structlog.get_logger("tidings.schedule")


async def put_each(items: Sequence[Item], queue: Queue, shares: Shares, clock: Clock, lease: Lease) -> list[str | None]:
    """Put the items, each within its tenant's share of the lane. Returns for each why the queue refused it, else None.

    If the put of all of them fails, each is put alone, so that a refused one stops no other. After any error but
    ValueError the first put may have worked, so these are marked as repeated.

    Raises:
        Unavailable: some items may have been put.
        LeaseLost: the rows of the items may belong to another process by now.
    """
    placed = shared_out(items, shares, clock.elapsed())
    try:
        await queue.put(placed)
    except Unavailable:
        raise
    except Exception as error:
        _log.exception("due items were refused; going on one by one", count=len(items))
        if not isinstance(error, ValueError):
            # Copies belong in the surplus, and count against no share.
            placed = shared_out([as_copy(item) for item in placed], shares, clock.elapsed())
    else:
        return [None] * len(items)
    refused: list[str | None] = []
    for item in placed:
        lease.check()
        try:
            await queue.put([item])
        except Unavailable:
            raise
        except Exception as error:
            refused.append(repr(error))
        else:
            refused.append(None)
    return refused


def as_copy(item: Item) -> Item:
    """The item, marked as a possible copy of one that was put before."""
    return msgspec.structs.replace(item, headers={**item.headers, REPEATED: "1"})
