"""A delivery: one notification on one channel to one address, as it travels in `deliveries.<channel>.<lane>`."""

from __future__ import annotations

from uuid import UUID

from msgspec import Struct

from tidings.model.notification import Content, TemplateRef
from tidings.model.user import Address
from tidings.model.vocabulary import Channel, Priority


class Delivery(Struct, frozen=True, gc=False, array_like=True):
    """What `deliver` needs to send once.

    Exactly one of `template` and `content` is set. `attempt` counts from 1. `step` counts the waits behind it, so that
    two facts of one attempt differ. `alternatives` are the addresses to try, in order, when this one fails (strategy
    `first_reachable`), each with the slot of its delivery. `tried` names the providers that could not take it just now,
    `pinned` the one that may have taken an earlier attempt. The allowed attempts count from `first_attempt`: a replay
    begins anew. `uncounted` of them used up no try. `doubtful`: some provider may have taken an earlier attempt.
    `refused` names the providers that will never take it. `waits` counts how often it waited for a provider, the first
    time at `waiting_since` (milliseconds since the epoch). `incarnation` is that of the user it is meant for
    (model/user.py); None: whoever has the id.
    """

    id: UUID
    tenant: str
    user_id: str | None
    key: str
    address: Address
    category: str
    priority: Priority
    template: TemplateRef | None = None
    content: Content | None = None
    data: bytes = b"{}"
    locale: str | None = None
    timezone: str | None = None
    name: str | None = None
    attempt: int = 1
    step: int = 0
    expires_at: int | None = None
    alternatives: tuple[tuple[int, Address], ...] = ()
    tried: tuple[str, ...] = ()
    first_attempt: int = 1
    pinned: str = ""
    uncounted: int = 0
    doubtful: bool = False
    refused: tuple[str, ...] = ()
    waits: int = 0
    waiting_since: int | None = None
    incarnation: int | None = None

    @property
    def channel(self) -> Channel:
        """The channel of the address."""
        return self.address.channel
