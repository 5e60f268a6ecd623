"""Outcomes: the facts about notifications and deliveries that `record` writes down."""

from __future__ import annotations

from uuid import UUID

from msgspec import Struct

from tidings.model.notification import Notification
from tidings.model.user import Address
from tidings.model.vocabulary import State


class Wait(Struct, frozen=True, gc=False, array_like=True):
    """A queue item to put into `topic` at `due` (milliseconds since the epoch). Every delay uses this.

    `repeated`: another copy of the item may be on its way, so this one is put marked as a copy. `held`: the item waits
    for a provider, and recovery may put it sooner when the provider is back. `at_least_ms`: the item waits at least so
    many milliseconds by the store's clock, from when the wait is recorded. Neither a wrong clock nor a cancellation
    makes that shorter.
    """

    due: int
    topic: str
    key: str
    body: bytes
    repeated: bool = False
    held: bool = False
    at_least_ms: int = 0


class Outcome(Struct, frozen=True, gc=False, array_like=True):
    """One fact about a delivery or, where the id has slot 0, about a whole notification.

    `(id, attempt, state, step)` identifies the fact; the recorder writes it once, however often it comes. `at` is in
    milliseconds since the epoch. The first outcome of a notification carries the `notification`. `wait` is scheduled
    once, when the fact is recorded. `suppress` puts `address` on the suppression list for `reason`. `reference` is the
    id that the vendor gave to what it took.
    """

    id: UUID
    tenant: str
    at: int
    state: State
    attempt: int = 0
    step: int = 0
    reason: str = ""
    provider: str = ""
    reference: str = ""
    detail: str = ""
    address: Address | None = None
    notification: Notification | None = None
    wait: Wait | None = None
    suppress: bool = False
