"""The accounts: for each minute, how many notifications were accepted and how many are recorded.

A `minute` is the number of whole minutes from the epoch to the instant in the notification's id.
"""

from __future__ import annotations

from uuid import UUID

from msgspec import Struct

from tidings.model.vocabulary import State

MINUTE_MS = 60_000


class AcceptedCount(Struct, frozen=True, gc=False):
    """How many of the tenant's notifications of that minute were answered with 202."""

    tenant: str
    minute: int
    count: int


class StateCount(Struct, frozen=True, gc=False):
    """How many of the tenant's notifications of that minute are in that state; `ids` names them where asked for."""

    tenant: str
    minute: int
    state: State
    count: int
    ids: tuple[UUID, ...] = ()


class Gap(Struct, frozen=True, gc=False):
    """A minute of which fewer notifications are recorded than were accepted.

    `confirmed`: nothing that is still queued can close the gap. Until then it may be backlog.
    """

    tenant: str
    minute: int
    missing: int
    confirmed: bool = False
