"""The accounts: what was accepted, minute by minute, held against what is recorded.

A minute is a number: whole minutes since the epoch, of the instant that the id begins with.
"""

from __future__ import annotations

from uuid import UUID

from msgspec import Struct

from tidings.model.vocabulary import State

MINUTE = 60_000
"""Milliseconds."""


class AcceptedCount(Struct, frozen=True, gc=False):
    """How many of the tenant's ids of that minute were answered with 202."""

    tenant: str
    minute: int
    count: int


class StateCount(Struct, frozen=True, gc=False):
    """How many of the tenant's notifications of that minute are in that state; `ids`, where asked for, which."""

    tenant: str
    minute: int
    state: State
    count: int
    ids: tuple[UUID, ...] = ()


class Gap(Struct, frozen=True, gc=False):
    """A minute of which less is recorded than was accepted.

    `confirmed`: nothing that is queued can close it any more; before that it may be backlog.
    """

    tenant: str
    minute: int
    missing: int
    confirmed: bool = False
