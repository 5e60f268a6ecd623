"""Dead letters, which wait for a person, and replays, which send them again."""

from __future__ import annotations

from enum import StrEnum
from uuid import UUID

from msgspec import Struct

from tidings.model.history import Event, NotificationRecord
from tidings.model.vocabulary import Channel, State


class LetterFilter(Struct, frozen=True, gc=False, omit_defaults=True):
    """Which dead letters to select. A field that is None selects all; `state` None means `dead` or `failed`.

    `since` (inclusive) and `until` (exclusive) bound when the notification was accepted, in milliseconds since the
    epoch. `delivery_id` selects this one delivery.
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
    """A delivery that ended without success. `last` is its furthest fact, `record` its notification's whole record."""

    id: UUID
    last: Event
    record: NotificationRecord


class ReplayState(StrEnum):
    """How far a replay is. Only a waiting or running one can be cancelled."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"
    CANCELLED = "cancelled"


class Replay(Struct, frozen=True):
    """A request to send dead letters again: who asked, which letters, how fast, and how far it is.

    Letters leave newest first, `per_second` of them a second. `expected` letters matched at the request (None: more
    than were counted). So far `found` letters were read: `replayed` were sent again, the others `skipped`, by reason.
    `position` is the delivery below which to go on; `next_due` is when the next letter leaves. `token` belongs to the
    present lease. Instants are milliseconds since the epoch.
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
