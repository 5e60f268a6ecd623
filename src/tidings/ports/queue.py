"""The queue between two stages.

Promises, checked on every adapter by tests/conformance/test_queue*.py:

- `put` returns once the items are durable. Every group of a topic gets every item.
- A claimed item that is neither done nor released is claimable again: at once if the claim had no lease and its
  process died, otherwise when the lease ends.
- Only an item that was begun comes back with `redelivered` set, however its claim ended. Other items come back as they
  were. The mark stays until the item is done.
- No two live claims of a group hold the same item.
- Items with the same key and topic are handed out in the order of their puts. An item that was released or came back
  may follow items that were put after it.
- `done` makes the outputs durable before it removes the inputs. If the queue stores both in one database, it does so in
  one transaction (`atomic` is True). Otherwise a leased claim may have written outputs and then been lost: its items
  come back with `repeated` set, unless they were begun or released.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from msgspec import Struct

Subscription = tuple[str, str]
"""(topic, group): one queue of items."""


class Item(Struct, frozen=True, gc=False):
    """An item to put into `topic`. Items with the same `key` (tenant and user) keep their order.

    `headers` are read by the stages and by people; the queue ignores them.
    """

    topic: str
    key: str
    body: bytes
    headers: Mapping[str, str] = {}


class Received(Struct, frozen=True, gc=False):
    """An item claimed from a queue.

    `redelivered`: an earlier leased claim began this item, so it may already have been sent.
    `repeated`: an earlier leased claim may already have written its outputs for this item.
    """

    key: str
    body: bytes
    headers: Mapping[str, str] = {}
    redelivered: bool = False
    repeated: bool = False


class Extent(Struct, frozen=True, gc=False):
    """How far a group's queue is filled and done, for each partition, in the adapter's own numbers."""

    put: tuple[int, ...]
    done: tuple[int, ...]

    def covers(self, earlier: Extent) -> bool:
        """True if every item that was in the queue when `earlier` was taken is done. May turn True a moment late."""
        return len(self.done) >= len(earlier.put) and all(
            done >= put for done, put in zip(self.done, earlier.put, strict=False)
        )


class Claim(Protocol):
    """A batch that one claimer owns until `done`, `release`, or the end of the lease if it has one."""

    @property
    def items(self) -> Sequence[Received]:
        """The items, in the order in which they were claimed. `places` and `released` below are indices into them."""
        ...

    async def begin(self, places: Collection[int]) -> None:
        """Durably mark the items at `places` as begun: the caller is about to hand them to a provider.

        Call it before each call to a provider, with the items of that call only. The claim must have a lease.

        Raises:
            LeaseLost: the claim is over. Do not hand these items over.
            Unavailable: the mark may not be durable. Do not hand these items over; they count as not begun.
            ValueError: the claim has no lease.
        """
        ...

    async def done(self, outputs: Sequence[Item] = (), released: Collection[int] = ()) -> None:
        """Make `outputs` durable, then end the claim.

        The items at `released` go back to the queue, marked if they were begun.

        Raises:
            LeaseLost: the claim is over. This call wrote nothing; an earlier call that raised Unavailable may have
                written the outputs and ended the claim.
            Unavailable: the write may or may not have happened. Make the same call again, or `release`.
        """
        ...

    async def release(self) -> None:
        """Give every item back to the queue, marked if it was begun.

        Raises:
            LeaseLost: the claim is over, perhaps by an earlier call.
            Unavailable: the write may or may not have happened. Call again, or let the lease end.
        """
        ...


class Queue(Protocol):
    """Topics, each read by one or more groups. The module's docstring says what every adapter promises."""

    @property
    def atomic(self) -> bool:
        """True if `Claim.done` writes the outputs and ends the claim in one transaction."""
        ...

    async def declare(self, subscriptions: Mapping[str, Sequence[str]]) -> None:
        """Make sure that these topics exist and that these groups read them. Idempotent; adds, never removes."""
        ...

    async def put(self, items: Sequence[Item]) -> None:
        """Make `items` durable: all or none of them if the adapter is `atomic`.

        Raises:
            Unavailable: some or all may be durable; putting them again may double them.
            ValueError: one of them cannot be put; none is durable.
        """
        ...

    async def claim(
        self, topic: str, group: str, max_items: int, max_wait_s: float, lease_s: float | None = None
    ) -> Claim | None:
        """A claim of 1 to `max_items` items, or None if nothing came within `max_wait_s` seconds.

        With a lease of `lease_s` seconds, items can be begun, and the claim outlives a dead process until the lease
        ends: use it for work with outside effects. Without one, the claim dies with the process: use it for work whose
        only effect is its outputs.
        """
        ...

    async def depths(self, queues: Sequence[Subscription]) -> Sequence[int]:
        """For each of the queues the number of items that are not done, claimed ones included.

        An item that moves on to a queue further along in `queues` meanwhile counts at least once.
        """
        ...

    async def extent(self, topic: str, group: str) -> Extent:
        """How far the group's queue is filled and done. Items that are claimed or will come back are not done."""
        ...

    async def close(self) -> None:
        """Release this process's claims and close its connections. Adapters may leave leased claims to their lease."""
        ...
