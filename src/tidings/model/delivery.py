"""A delivery: one notification on one channel to one address, as it travels in `deliveries.<channel>.<lane>`."""

from __future__ import annotations

from uuid import UUID

from msgspec import Struct

from tidings.model.notification import Content, TemplateRef
from tidings.model.user import Address
from tidings.model.vocabulary import Channel, Priority


class Delivery(Struct, frozen=True, gc=False, array_like=True):
    """Everything that `deliver` needs to make one attempt. Instants are milliseconds since the epoch.

    - Exactly one of `template` and `content` is set.
    - `alternatives`: addresses to try in order if this one fails (strategy `first_reachable`), each with its slot.
    - `attempt`: counts from 1. `step`: the waits so far; it tells two facts of one attempt apart.
    - `first_attempt`: the attempt from which the allowed ones are counted; a replay sets it anew. `uncounted`: how many
      attempts since then used up no try.
    - `tried`: the providers that could not take it just now. `refused`: those that will never take it.
    - `pinned`: the provider that may have taken an earlier attempt. `doubtful`: some provider may have.
    - `waits`: how often it has waited for a provider; the first wait began at `waiting_since`.
    - `incarnation`: the user's (model/user.py); None: the delivery is for whoever has the user id.
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
