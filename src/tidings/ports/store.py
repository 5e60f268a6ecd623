"""The store: history, which only `record` writes, the schedule, and the resources.

Every method that takes a `tenant` sees that tenant's rows alone. Adapters raise `Unavailable` when the database does
not answer; nothing was written then unless said otherwise.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol
from uuid import UUID

from msgspec import Struct

from tidings.model.accounting import StateCount
from tidings.model.history import HistoryFilter, InboxItem, NotificationRecord, Tally
from tidings.model.outcome import Outcome
from tidings.model.template import TemplateSummary, TemplateVersion, VersionSummary
from tidings.model.tenant import ApiKey, Rates, Tenant
from tidings.model.user import Address, Category, Preferences, Profile, Suppression, User
from tidings.ports.accounts import Accounts, Rounds, Watched
from tidings.ports.attempting import Attempting
from tidings.ports.caps import Caps
from tidings.ports.days import Days
from tidings.ports.handing import Handing
from tidings.ports.idempotency import Idempotency
from tidings.ports.recurrences import Recurrences
from tidings.ports.replays import Letters, Replays
from tidings.ports.schedule import Changes, Schedule

UserKey = tuple[str, str]
"""(tenant, user_id)"""


class Page(Struct, frozen=True, gc=False):
    """A page of notifications, newest first. `cursor` is the id to go on from, None at the end."""

    records: tuple[NotificationRecord, ...]
    cursor: UUID | None


class History(Attempting, Handing, Protocol):
    """Append-only facts. A delivery's state is the furthest of its events (policy/transitions.py)."""

    async def append(self, outcomes: Sequence[Outcome]) -> Mapping[str, int]:
        """Write a batch in one transaction: notifications, events, waits, suppressions. Idempotent per fact.

        Facts of days for which there is no room are left out; how many, by reason: `archived` (what they are about has
        been archived), `too_old` and `too_far` (no clock of ours gave that id). A
        device that is suppressed leaves the profile that has it.
        """
        ...

    async def get(self, tenant: str, notification_id: UUID) -> NotificationRecord | None:
        """One notification with its events."""
        ...

    async def find(self, tenant: str, filter: HistoryFilter, before: UUID | None, limit: int) -> Page:
        """Notifications that match, newest first, from `before` (exclusive) on."""
        ...

    async def tally(self, tenant: str, since: int | None = None, until: int | None = None) -> Sequence[Tally]:
        """Where the tenant's deliveries and notifications rest.

        Of the ids from `since` (inclusive) to `until` (exclusive), milliseconds since the epoch.
        """
        ...

    async def states(
        self, since: int, until: int, tenant: str | None = None, *, in_flight: bool = False
    ) -> Sequence[StateCount]:
        """The notifications of the ids of these minutes, counted by state; of one tenant or of all.

        Minutes since the epoch, `since` inclusive, `until` exclusive. With `in_flight` the counts of what is in flight
        say which these are.
        """
        ...

    async def get_many(self, notification_ids: Collection[UUID]) -> Sequence[NotificationRecord]:
        """Those of these notifications that are recorded, whoever sent them, with their events."""
        ...

    async def maintain(self, now: int) -> int:
        """Prepare for the days to come; how much was missing. To be called at the start and at least once a day."""
        ...


class Person(Struct, frozen=True, gc=False):
    """What the decisions about one recipient need. `incarnation` is None where there is no such user."""

    profile: Profile | None = None
    preferences: Preferences = Preferences()
    incarnation: int | None = None


class Users(Protocol):
    """Users, their preferences, and addresses that must not be used."""

    async def upsert(self, tenant: str, users: Sequence[tuple[str, Profile, Preferences | None]], now: int) -> None:
        """Create or replace profiles; preferences too, where given. Of two with one id the later one counts.

        A user who is created, also one who was deleted before, gets an incarnation that no other user of the id had,
        and an empty inbox. Within a tenant a device belongs to the user who registered it last: its token leaves the
        profiles of all others, in the same transaction. A token that is new in its profile and stands on the
        suppression list because the vendor did not know it any more leaves the list.
        """
        ...

    async def add_device(self, tenant: str, user_id: str, token: str, most: int, now: int) -> Profile | None:
        """Register a device as the user's newest; the profile then, None when there is no such user.

        Of more than `most` the oldest are dropped. Otherwise as `upsert`.
        """
        ...

    async def remove_device(self, tenant: str, user_id: str, token: str, now: int) -> bool:
        """Take a device out of the profile, if it is there; False when there is no such user."""
        ...

    async def known(self, tenant: str, user_ids: Collection[str]) -> Mapping[str, int]:
        """The incarnations of those that exist."""
        ...

    async def get(self, tenant: str, user_id: str) -> User | None:
        """One user."""
        ...

    async def set_preferences(self, tenant: str, user_id: str, preferences: Preferences, now: int) -> bool:
        """Replace the preferences; False when there is no such user."""
        ...

    async def delete(self, tenant: str, user_id: str) -> bool:
        """Delete the user with preferences, devices and inbox; False when there is none."""
        ...

    async def people(self, keys: Collection[UserKey]) -> Mapping[UserKey, Person]:
        """Profiles and preferences of many users; unknown ones are absent."""
        ...

    async def suppressed(self, addresses: Collection[tuple[str, Address]]) -> Mapping[tuple[str, Address], str]:
        """Those of `(tenant, address)` on the suppression list, with the reason, however they are spelled.

        The list, here and below and in `History.append`, knows an address by its identity (policy/addresses.py).
        """
        ...

    async def suppress(self, suppressions: Sequence[Suppression]) -> None:
        """Put addresses on the suppression list; one that is there keeps its first reason."""
        ...

    async def unsuppress(self, tenant: str, address: Address) -> bool:
        """Take an address off the list; False when it was not on it."""
        ...

    async def suppressions(self, tenant: str, after: Address | None, limit: int) -> Sequence[Suppression]:
        """The list, by channel and value."""
        ...


class Cancellations(Protocol):
    """Notifications that must not be sent any more."""

    async def cancel(self, tenant: str, notification_id: UUID, now: int) -> None:
        """Mark it, and make what waits in the schedule for it due now, so that it ends soon. Idempotent."""
        ...

    async def cancelled(self, notification_ids: Collection[UUID]) -> set[UUID]:
        """Those that are marked."""
        ...

    async def sweep(self, before: int, most: int) -> int:
        """Forget up to `most` of notifications that were accepted, and cancelled, before this instant; how many."""
        ...


class TemplateStore(Protocol):
    """Templates and their immutable versions."""

    async def add_version(self, tenant: str, version: TemplateVersion) -> TemplateVersion:
        """Store as the next version of `version.name` (its number is assigned here); creates the template."""
        ...

    async def version(self, tenant: str, name: str, version: int) -> TemplateVersion | None:
        """One version."""
        ...

    async def published(self, tenant: str, name: str) -> TemplateVersion | None:
        """The published version."""
        ...

    async def publish(self, tenant: str, name: str, version: int) -> bool:
        """Make `version` the published one (rolling back is publishing an older one); False when there is none."""
        ...

    async def summary(self, tenant: str, name: str) -> TemplateSummary | None:
        """One template."""
        ...

    async def list(self, tenant: str, after: str | None, limit: int) -> Sequence[TemplateSummary]:
        """Templates by name, from `after` (exclusive) on."""
        ...

    async def versions(self, tenant: str, name: str, before: int | None, limit: int) -> Sequence[VersionSummary]:
        """Up to `limit` versions, newest first, from the number `before` (exclusive; None: the newest) on."""
        ...


class Inbox(Protocol):
    """The users' inboxes."""

    async def add(self, tenant: str, items: Sequence[InboxItem]) -> None:
        """Put items into inboxes; one that is there already (same id) stays as it is."""
        ...

    async def list(
        self, tenant: str, user_id: str, before: UUID | None, limit: int, *, archived: bool, unread_only: bool
    ) -> Sequence[InboxItem]:
        """Items newest first, from `before` (exclusive) on. `archived` False leaves archived ones out."""
        ...

    async def unread(self, tenant: str, user_id: str) -> int:
        """How many items are neither read nor archived."""
        ...

    async def remove(self, tenant: str, user_id: str, before: int) -> int:
        """Delete the user's items that were made before this instant (milliseconds since the epoch); how many."""
        ...

    async def mark(self, tenant: str, user_id: str, ids: Sequence[UUID] | None, field: str, at: int | None) -> int:
        """Set `field` (`seen_at`, `read_at`, `archived_at`) of these items (None: all); the number that changed."""
        ...


class SweptInbox(Inbox, Protocol):
    """Inboxes whose old items can be deleted."""

    async def sweep(self, before: int, most: int) -> int:
        """Delete up to `most` items, whosever, that were made before this instant; how many."""
        ...

    async def trim(self, since: int, until: int, keep: int, most: int) -> int:
        """Of users who got an item within these instants delete all but the `keep` newest, `most` at once; how many.

        An item's instant is here that of its id.
        """
        ...


class Tenants(Protocol):
    """Tenants, API keys, categories."""

    async def add(self, tenant: Tenant) -> bool:
        """False when the id is taken."""
        ...

    async def list(self) -> Sequence[Tenant]:
        """All tenants, by id."""
        ...

    async def limit(self, tenant: str, limits: Rates) -> bool:
        """Replace the limits of a tenant; False when there is none."""
        ...

    async def add_key(self, key: ApiKey) -> None:
        """Store a key. Raises NotFound when there is no such tenant."""
        ...

    async def key(self, digest: bytes) -> ApiKey | None:
        """The key with this SHA-256, revoked or not, with the limits of its tenant."""
        ...

    async def known(self, digests: Collection[bytes]) -> Mapping[bytes, ApiKey]:
        """The same for many at once, by their digests; without those that nobody has."""
        ...

    async def keys(self, tenant: str) -> Sequence[ApiKey]:
        """A tenant's keys, newest first."""
        ...

    async def revoke(self, tenant: str, key_id: str, now: int) -> bool:
        """False when there is no such key."""
        ...

    async def put_category(self, tenant: str, category: Category) -> None:
        """Create or replace."""
        ...

    async def delete_category(self, tenant: str, name: str) -> bool:
        """Forget what was declared; False when nothing was."""
        ...

    async def categories(self, tenant: str) -> Sequence[Category]:
        """All declared categories of the tenant, by name."""
        ...


class Store(Protocol):
    """All of the above behind one connection."""

    @property
    def history(self) -> History:
        """What happened."""
        ...

    @property
    def schedule(self) -> Schedule:
        """What waits."""
        ...

    @property
    def changes(self) -> Changes:
        """What is changed while it waits."""
        ...

    @property
    def recurrences(self) -> Recurrences:
        """What is sent again and again."""
        ...

    @property
    def users(self) -> Users:
        """Who is notified."""
        ...

    @property
    def cancellations(self) -> Cancellations:
        """What is called back."""
        ...

    @property
    def templates(self) -> TemplateStore:
        """What is said."""
        ...

    @property
    def inbox(self) -> SweptInbox:
        """What was put into inboxes."""
        ...

    @property
    def tenants(self) -> Tenants:
        """Who sends."""
        ...

    @property
    def idempotency(self) -> Idempotency:
        """What was asked before."""
        ...

    @property
    def letters(self) -> Letters:
        """What waits for a person."""
        ...

    @property
    def replays(self) -> Replays:
        """What is sent again."""
        ...

    @property
    def accounts(self) -> Accounts:
        """What was accepted."""
        ...

    @property
    def days(self) -> Days:
        """What is closed, and what is archived."""
        ...

    @property
    def watched(self) -> Watched:
        """What is looked at again."""
        ...

    @property
    def rounds(self) -> Rounds:
        """Who looks, and how far it is."""
        ...

    @property
    def caps(self) -> Caps:
        """What passed under caps."""
        ...

    async def ping(self) -> None:
        """Return when the store answers. Raises Unavailable."""
        ...

    async def close(self) -> None:
        """Free what it holds."""
        ...
