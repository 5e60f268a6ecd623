"""What is read back from the history: a notification with its deliveries and their timelines."""

from __future__ import annotations

from uuid import UUID

from msgspec import Struct

from tidings.model.notification import Notification
from tidings.model.vocabulary import State


class Event(Struct, frozen=True, gc=False):
    """One recorded fact. `id` is the delivery's or (slot 0) the notification's; `at` is in ms since the epoch."""

    id: UUID
    at: int
    state: State
    attempt: int = 0
    step: int = 0
    reason: str = ""
    provider: str = ""
    reference: str = ""
    detail: str = ""
    address: str = ""


class NotificationRecord(Struct, frozen=True, gc=False):
    """A recorded notification and everything that happened to it, oldest event first."""

    notification: Notification
    events: tuple[Event, ...]


class HistoryFilter(Struct, frozen=True, gc=False):
    """Which notifications to list. Instants are milliseconds since the epoch; `since` inclusive, `until` exclusive."""

    user_id: str | None = None
    state: State | None = None
    category: str | None = None
    since: int | None = None
    until: int | None = None


class Tally(Struct, frozen=True, gc=False):
    """How many deliveries (with `channel` None: notifications) are in a state for a reason."""

    channel: str | None
    state: State
    reason: str
    count: int


class InboxItem(Struct, frozen=True, gc=False):
    """An item of a user's inbox; `id` is the delivery's. Instants are milliseconds since the epoch."""

    id: UUID
    user_id: str
    title: str
    body: str
    link: str | None = None
    category: str = ""
    created_at: int = 0
    seen_at: int | None = None
    read_at: int | None = None
    archived_at: int | None = None
