"""What the store needs now and then: partitions for the days to come, and an end for what is kept for a time only."""

from __future__ import annotations

from tidings.model.accounting import MINUTE
from tidings.policy.idempotency import KEPT
from tidings.ports.clock import Clock
from tidings.ports.store import Store

KEEP_COUNTS = 400 * 24 * 60
"""Minutes for which the counts of what was accepted are kept."""


async def keep_house(store: Store, clock: Clock) -> None:
    """To be called once an hour. Raises Unavailable."""
    now = clock.now()
    await store.history.maintain(now)
    await store.idempotency.sweep(now - KEPT)
    await store.caps.sweep(now)
    await store.accounts.forget(now // MINUTE - KEEP_COUNTS)
