"""Outcomes: the facts about notifications and deliveries that `record` writes down."""

from __future__ import annotations

from uuid import UUID

from msgspec import Struct

from tidings.model.notification import Notification
from tidings.model.user import Address
from tidings.model.vocabulary import State


class Wait(Struct, frozen=True, gc=False, array_like=True):
    """Something to put into a queue later: all waiting is this. `due` is in milliseconds since the epoch.

    `repeated`: it may be a second copy of what is on its way already, and is marked so when it is put. `held`: it waits
    for a provider, so it may be put sooner when that is back.
    """

    due: int
    topic: str
    key: str
    body: bytes
    repeated: bool = False
    held: bool = False


class Outcome(Struct, frozen=True, gc=False, array_like=True):
    """One fact.

    `id` is a delivery's, or a notification's (slot 0) for a fact about the whole. `at` is in milliseconds since the
    epoch. `(id, attempt, state, step)` identifies the fact: the same one again is not recorded twice. `notification` is
    there on the first outcome of a notification. `wait` is scheduled when the fact is recorded, once. `suppress` puts
    `address` on the suppression list for `reason`. `reference` is the vendor's id of what it took.
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
