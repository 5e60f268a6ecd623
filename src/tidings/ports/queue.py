"""The queue between two stages.

Promises, checked on every adapter by tests/conformance/test_queue.py:

- `put` returns when the items are durable. Each group of a topic gets every item.
- An item that was claimed and neither done nor released comes back: at once when its claimer's process died with an
  unleased claim, when the lease ran out otherwise.
- Begun is a fact about an item, not about its claim: what `begin` was told comes back with `redelivered` set, however
  the claim ends without that item being done. All others come back as if nothing had happened. A mark stays until the
  item is done.
- No two live claims of a group hold the same item.
- The items of one key of one topic are handed out in the order in which they were put; a released or returned item
  comes later than that.
- `done` makes the outputs durable before the inputs are gone. Where queue and outputs are one database both happen in
  one transaction (`atomic` is True). Elsewhere outputs may be there of a leased claim that did not end: its items come
  back with `repeated` set, unless they were begun or released.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from msgspec import Struct


class Item(Struct, frozen=True, gc=False):
    """One item on its way into `topic`. `key` (tenant and user) orders; `headers` are for the stages and people."""

    topic: str
    key: str
    body: bytes
    headers: Mapping[str, str] = {}


class Received(Struct, frozen=True, gc=False):
    """One item out of a queue.

    `redelivered`: an earlier leased claim has begun it. `repeated`: what an earlier leased claim put for it may be
    there already, although that claim did not end.
    """

    key: str
    body: bytes
    headers: Mapping[str, str] = {}
    redelivered: bool = False
    repeated: bool = False


class Extent(Struct, frozen=True, gc=False):
    """How far a group's queue is filled, and how far it is worked off, in the adapter's own numbers."""

    put: tuple[int, ...]
    done: tuple[int, ...]

    def covers(self, earlier: Extent) -> bool:
        """Whether everything that was in the queue when `earlier` was taken is done. May say no for a moment longer."""
        return len(self.done) >= len(earlier.put) and all(
            done >= put for done, put in zip(self.done, earlier.put, strict=False)
        )


class Claim(Protocol):
    """A batch that belongs to one claimer until `done`, `release`, or (leased) until the lease runs out."""

    @property
    def items(self) -> Sequence[Received]:
        """The batch, in claiming order."""
        ...

    async def begin(self, places: Collection[int]) -> None:
        """Make durable that exactly the items at these indices are about to be handed to somebody outside.

        To be called before each handing over, as often as there are some; for a leased claim only.

        Raises:
            LeaseLost: the claim is over. Nothing may be handed over.
            Unavailable: not known to be durable. Nothing may be handed over, and the items count as unbegun.
            ValueError: the claim has no lease.
        """
        ...

    async def done(self, outputs: Sequence[Item] = (), released: Collection[int] = ()) -> None:
        """Make `outputs` durable, then end the claim.

        Items at the indices `released` go back to the queue: begun, if they were begun, else as they came.

        Raises:
            LeaseLost: the claim is over. Neither the outputs nor the ending were written now; an earlier call that
                raised Unavailable may have written both.
            Unavailable: not known to be written. The same call, or `release`, may be made again.
        """
        ...

    async def release(self) -> None:
        """Give every item back: begun, if it was begun, else as it came.

        Raises:
            LeaseLost: the claim is over, by an earlier call perhaps.
            Unavailable: not known to be written. It may be called again; else the items come back when the lease ends.
        """
        ...


class Queue(Protocol):
    """See the module's promises."""

    @property
    def atomic(self) -> bool:
        """Whether `Claim.done` writes outputs and ends the claim in one transaction."""
        ...

    async def declare(self, subscriptions: Mapping[str, Sequence[str]]) -> None:
        """Make sure that these topics exist, each read by these groups. Idempotent; adds, never removes."""
        ...

    async def put(self, items: Sequence[Item]) -> None:
        """Make `items` durable, all or none where the adapter is atomic.

        Raises:
            Unavailable: not known to be durable; putting them again may double them.
        """
        ...

    async def claim(
        self, topic: str, group: str, max_items: int, max_wait: float, lease: float | None = None
    ) -> Claim | None:
        """A batch of 1 to `max_items`, or None when nothing came within `max_wait` seconds.

        With `lease` (seconds) the claim may survive its claimer for that long, and its items can be begun: for work
        with effects outside. Without, the claim dies with the process: for work whose only effect is its outputs.
        """
        ...

    async def depth(self, topic: str, group: str) -> int:
        """How many items wait (claimed ones included)."""
        ...

    async def extent(self, topic: str, group: str) -> Extent:
        """How far it is filled and worked off. What is claimed, or was and will come back, is not done."""
        ...

    async def close(self) -> None:
        """End the claims of this process and free what it holds."""
        ...
