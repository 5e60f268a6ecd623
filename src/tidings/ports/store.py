"""The store: the directory of the installation, and the shards with their users.

On one machine one PostgreSQL is both. Each part is a port of its own, in a file of its own. Adapters raise
`Unavailable` when the database does not answer; nothing was written then, unless the method says otherwise.
"""

from __future__ import annotations

from typing import Protocol

from tidings.ports.accounts import Accounts, Rounds, Watched
from tidings.ports.cancellations import Cancellations
from tidings.ports.caps import Caps
from tidings.ports.days import Days
from tidings.ports.history import History
from tidings.ports.idempotency import Idempotency
from tidings.ports.inbox import SweptInbox
from tidings.ports.recurrences import Recurrences
from tidings.ports.replays import Letters, Replays
from tidings.ports.schedule import Changes, Schedule
from tidings.ports.standings import Standings
from tidings.ports.templates import TemplateStore
from tidings.ports.tenants import Tenants
from tidings.ports.users import Users


class Directory(Protocol):
    """What belongs to the installation: read by every process, whichever users it works for."""

    @property
    def tenants(self) -> Tenants:
        """Tenants, API keys and categories."""
        ...

    @property
    def templates(self) -> TemplateStore:
        """Templates and their versions."""
        ...

    @property
    def idempotency(self) -> Idempotency:
        """Idempotency keys with their answers."""
        ...

    @property
    def accounts(self) -> Accounts:
        """Counts of accepted notifications, and gaps."""
        ...

    @property
    def rounds(self) -> Rounds:
        """Leases and positions of the rounds."""
        ...

    @property
    def replays(self) -> Replays:
        """Replays of dead letters and their progress."""
        ...


class Shard(Protocol):
    """What belongs to users: all of it about the users of one shard's buckets."""

    @property
    def users(self) -> Users:
        """Users, preferences and the suppression list."""
        ...

    @property
    def history(self) -> History:
        """Notifications and their events."""
        ...

    @property
    def schedule(self) -> Schedule:
        """Queue items to enqueue later."""
        ...

    @property
    def changes(self) -> Changes:
        """Changes to notifications that wait for their send time."""
        ...

    @property
    def recurrences(self) -> Recurrences:
        """Notifications that are sent again and again."""
        ...

    @property
    def cancellations(self) -> Cancellations:
        """Marks on cancelled notifications."""
        ...

    @property
    def standings(self) -> Standings:
        """What may forbid sending."""
        ...

    @property
    def inbox(self) -> SweptInbox:
        """The users' inboxes."""
        ...

    @property
    def caps(self) -> Caps:
        """Counts of what passed under caps."""
        ...

    @property
    def letters(self) -> Letters:
        """Dead letters."""
        ...

    @property
    def days(self) -> Days:
        """The days of the history: their sums and the archive."""
        ...

    @property
    def watched(self) -> Watched:
        """Notifications that the audit will look at again."""
        ...


class Store(Directory, Shard, Protocol):
    """The directory and the only shard, behind one connection pool."""

    async def ping(self) -> None:
        """Return if the store answers. Raises Unavailable if it does not."""
        ...

    async def close(self) -> None:
        """Close the connections."""
        ...
