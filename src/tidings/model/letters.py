"""Dead letters, which wait for a person, and replays: what a person asked to have sent again."""

from __future__ import annotations

from enum import StrEnum
from uuid import UUID

from msgspec import Struct

from tidings.model.history import Event, NotificationRecord
from tidings.model.vocabulary import Channel, State


class LetterFilter(Struct, frozen=True, gc=False, omit_defaults=True):
    """Which dead letters. What is None does not matter; without a `state` those that are `dead` or `failed`.

    `since` (inclusive) and `until` (exclusive) say when the notification was accepted, in milliseconds since the epoch.
    `delivery_id` means this one alone.
    """

    state: State | None = None
    channel: Channel | None = None
    category: str | None = None
    provider: str | None = None
    reason: str | None = None
    user_id: str | None = None
    since: int | None = None
    until: int | None = None
    delivery_id: UUID | None = None


class DeadLetter(Struct, frozen=True, gc=False):
    """A delivery that ended without success. `last` is its furthest fact, `record` all that its notification knows."""

    id: UUID
    last: Event
    record: NotificationRecord


class ReplayState(StrEnum):
    """How far a replay is. Only the first two can still be cancelled."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"
    CANCELLED = "cancelled"


class Replay(Struct, frozen=True):
    """Dead letters that are sent again: who asked, which, how fast, and how far it is.

    `per_second` letters leave, newest first. `expected` is how many matched when it was asked for (None: more than
    were counted), `found` how many were come upon so far; of these `replayed` were sent again and the others `skipped`,
    by reason. `position` is the delivery to go on below; `next_due` when the next letter leaves. Instants are
    milliseconds since the epoch. `token` is the present lease's.
    """

    id: UUID
    tenant: str
    filter: LetterFilter
    per_second: int
    key_id: str
    key_prefix: str
    created_at: int
    expected: int | None = None
    state: ReplayState = ReplayState.WAITING
    found: int = 0
    replayed: int = 0
    skipped: dict[str, int] = {}
    started_at: int | None = None
    finished_at: int | None = None
    position: UUID | None = None
    next_due: int = 0
    token: UUID | None = None
