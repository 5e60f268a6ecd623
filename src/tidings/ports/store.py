"""The store: the history, which only `record` writes, the schedule, and the resources.

A method with the parameter `tenant` sees only that tenant's rows. Instants are milliseconds since the epoch. Adapters
raise `Unavailable` when the database does not answer; nothing was written then, unless the method says otherwise.
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
    """A page of notifications, newest first. `cursor` is the next page's `before`, None on the last page."""

    records: tuple[NotificationRecord, ...]
    cursor: UUID | None


class History(Attempting, Handing, Protocol):
    """The append-only history. A delivery's state is the furthest of its events (policy/transitions.py)."""

    async def append(self, outcomes: Sequence[Outcome]) -> Mapping[str, int]:
        """Write a batch in one transaction: notifications, events, waits and suppressions. Idempotent for each outcome.

        A device that becomes suppressed is removed from the profile that has it. Returns how many outcomes were left
        out, by reason: `archived` (their notification is in the archive), `too_old` or `too_far` (the id's day is so
        far in the past or the future that no clock of ours can have made the id).
        """
        ...

    async def get(self, tenant: str, notification_id: UUID) -> NotificationRecord | None:
        """The notification with its events; None if it is not recorded."""
        ...

    async def find(self, tenant: str, filter: HistoryFilter, before: UUID | None, limit: int) -> Page:
        """Notifications that match, newest first, with ids below `before`. A page may be short and not be the last."""
        ...

    async def tally(self, tenant: str, since: int | None = None, until: int | None = None) -> Sequence[Tally]:
        """Deliveries and notifications of the tenant from `since` to `until` (exclusive), by state and reason."""
        ...

    async def states(
        self, since: int, until: int, tenant: str | None = None, *, in_flight: bool = False
    ) -> Sequence[StateCount]:
        """The notifications whose ids were made in these minutes, counted by state; of one tenant or of all.

        `since` (inclusive) and `until` (exclusive) are minutes since the epoch. With `in_flight`, the counts of states
        in flight carry the ids of their notifications.
        """
        ...

    async def get_many(self, notification_ids: Collection[UUID]) -> Sequence[NotificationRecord]:
        """Those of these notifications that are recorded, of any tenant, with their events."""
        ...

    async def maintain(self, now: int) -> int:
        """Prepare for the coming days; returns how many tables were missing. Call it at the start and daily."""
        ...


class Person(Struct, frozen=True, gc=False):
    """A recipient, as far as routing and delivering need it. `incarnation` is None if there is no such user."""

    profile: Profile | None = None
    preferences: Preferences = Preferences()
    incarnation: int | None = None


class Users(Protocol):
    """Users with their preferences and devices, and the suppression list."""

    async def upsert(self, tenant: str, users: Sequence[tuple[str, Profile, Preferences | None]], now: int) -> None:
        """Create or replace profiles, and preferences where given. If an id occurs twice, the later entry counts.

        A new user, or one who had been deleted, gets an empty inbox and an incarnation that no earlier user of the id
        had. Within a tenant a device belongs to the user who registered it last: in the same transaction its token is
        removed from all other profiles. A token that is new in its profile is taken off the suppression list if it is
        there because the vendor no longer knew it.
        """
        ...

    async def add_device(self, tenant: str, user_id: str, token: str, most: int, now: int) -> Profile | None:
        """Register a device as the user's newest. Returns the new profile, or None if there is no such user.

        If the user then has more than `most` devices, the oldest are dropped. The rules of `upsert` for devices apply.
        """
        ...

    async def remove_device(self, tenant: str, user_id: str, token: str, now: int) -> bool:
        """Remove a device from the profile if it is there. False if there is no such user."""
        ...

    async def known(self, tenant: str, user_ids: Collection[str]) -> Mapping[str, int]:
        """The incarnations of these users, by id. Ids without a user are absent."""
        ...

    async def get(self, tenant: str, user_id: str) -> User | None:
        """The user, or None."""
        ...

    async def set_preferences(self, tenant: str, user_id: str, preferences: Preferences, now: int) -> bool:
        """Replace the preferences. False if there is no such user."""
        ...

    async def delete(self, tenant: str, user_id: str) -> bool:
        """Delete the user with preferences, devices and inbox. False if there is no such user."""
        ...

    async def people(self, keys: Collection[UserKey]) -> Mapping[UserKey, Person]:
        """The profiles, preferences and incarnations of these users. Unknown users are absent."""
        ...

    async def suppressed(self, addresses: Collection[tuple[str, Address]]) -> Mapping[tuple[str, Address], str]:
        """Those of these `(tenant, address)` that are on the suppression list, with the reason.

        In all methods here and in `History.append`, the list knows an address by its identity (policy/addresses.py):
        any spelling of an address finds it.
        """
        ...

    async def suppress(self, suppressions: Sequence[Suppression]) -> None:
        """Put addresses on the suppression list. An address that is already on it keeps its first reason."""
        ...

    async def unsuppress(self, tenant: str, address: Address) -> bool:
        """Take an address off the suppression list. False if it was not on it."""
        ...

    async def suppressions(self, tenant: str, after: Address | None, limit: int) -> Sequence[Suppression]:
        """The suppression list, sorted by channel and value, from `after` (exclusive) on."""
        ...


class Cancellations(Protocol):
    """Marks on notifications that must no longer be sent."""

    async def cancel(self, tenant: str, notification_id: UUID, now: int) -> None:
        """Mark the notification and make its rows in the schedule due now, so that it ends soon. Idempotent."""
        ...

    async def cancelled(self, notification_ids: Collection[UUID]) -> set[UUID]:
        """Those of these notifications that are marked as cancelled."""
        ...

    async def sweep(self, before: int, most: int) -> int:
        """Delete up to `most` marks if notification and cancellation are older than `before`; returns how many."""
        ...


class TemplateStore(Protocol):
    """Templates and their immutable versions."""

    async def add_version(self, tenant: str, version: TemplateVersion) -> TemplateVersion:
        """Store the next version of `version.name`, creating the template if needed; returns it with its number."""
        ...

    async def version(self, tenant: str, name: str, version: int) -> TemplateVersion | None:
        """The version, or None."""
        ...

    async def published(self, tenant: str, name: str) -> TemplateVersion | None:
        """The published version; None if there is none."""
        ...

    async def publish(self, tenant: str, name: str, version: int) -> bool:
        """Publish `version`, also an older one (a roll-back). False if there is no such version."""
        ...

    async def summary(self, tenant: str, name: str) -> TemplateSummary | None:
        """The template's summary, or None."""
        ...

    async def list(self, tenant: str, after: str | None, limit: int) -> Sequence[TemplateSummary]:
        """The tenant's templates, sorted by name, from `after` (exclusive) on."""
        ...

    async def versions(self, tenant: str, name: str, before: int | None, limit: int) -> Sequence[VersionSummary]:
        """Up to `limit` versions with numbers below `before` (None: all), newest first."""
        ...


class Inbox(Protocol):
    """The users' inboxes."""

    async def add(self, tenant: str, items: Sequence[InboxItem]) -> None:
        """Put items into inboxes. An item whose id is already in the inbox is left as it is."""
        ...

    async def list(
        self, tenant: str, user_id: str, before: UUID | None, limit: int, *, archived: bool, unread_only: bool
    ) -> Sequence[InboxItem]:
        """The user's items with ids below `before`, newest first. Archived items are included only if `archived`."""
        ...

    async def unread(self, tenant: str, user_id: str) -> int:
        """The number of the user's items that are neither read nor archived."""
        ...

    async def remove(self, tenant: str, user_id: str, before: int) -> int:
        """Delete the user's items that were created before `before`; returns how many."""
        ...

    async def mark(self, tenant: str, user_id: str, ids: Sequence[UUID] | None, field: str, at: int | None) -> int:
        """Set `field` of these items to `at`, or clear it if `at` is None; returns how many items changed.

        `field` is `seen_at`, `read_at` or `archived_at`. With `ids` None, all of the user's items are meant. A field
        that is already set keeps its first instant.
        """
        ...


class SweptInbox(Inbox, Protocol):
    """Inboxes from which the rounds delete old items."""

    async def sweep(self, before: int, most: int) -> int:
        """Delete up to `most` items of any user that were created before `before`; returns how many."""
        ...

    async def trim(self, since: int, until: int, keep: int, most: int) -> int:
        """Keep only the `keep` newest items of each user who got an item from `since` to `until`.

        Deletes up to `most` items and returns how many. The instant of an item is here the one in its id.
        """
        ...


class Tenants(Protocol):
    """Tenants with their API keys and categories."""

    async def add(self, tenant: Tenant) -> bool:
        """Store a new tenant. False if the id is taken."""
        ...

    async def list(self) -> Sequence[Tenant]:
        """All tenants, sorted by id."""
        ...

    async def limit(self, tenant: str, limits: Rates) -> bool:
        """Replace the limits of a tenant. False if there is no such tenant."""
        ...

    async def add_key(self, key: ApiKey) -> None:
        """Store a key. Raises NotFound if there is no such tenant."""
        ...

    async def key(self, digest: bytes) -> ApiKey | None:
        """The key with this SHA-256 digest, revoked or not, with the limits of its tenant."""
        ...

    async def known(self, digests: Collection[bytes]) -> Mapping[bytes, ApiKey]:
        """The keys with these digests, as `key` gives them, by digest. Unknown digests are absent."""
        ...

    async def keys(self, tenant: str) -> Sequence[ApiKey]:
        """The tenant's keys, newest first."""
        ...

    async def revoke(self, tenant: str, key_id: str, now: int) -> bool:
        """Revoke a key; a revoked key keeps its first instant. False if there is no such key."""
        ...

    async def put_category(self, tenant: str, category: Category) -> None:
        """Create or replace a category."""
        ...

    async def delete_category(self, tenant: str, name: str) -> bool:
        """Delete a declared category. False if it was not declared."""
        ...

    async def categories(self, tenant: str) -> Sequence[Category]:
        """All declared categories of the tenant, sorted by name."""
        ...


class Store(Protocol):
    """All parts of the store behind one connection pool."""

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
    def users(self) -> Users:
        """Users, preferences and the suppression list."""
        ...

    @property
    def cancellations(self) -> Cancellations:
        """Marks on cancelled notifications."""
        ...

    @property
    def templates(self) -> TemplateStore:
        """Templates and their versions."""
        ...

    @property
    def inbox(self) -> SweptInbox:
        """The users' inboxes."""
        ...

    @property
    def tenants(self) -> Tenants:
        """Tenants, API keys and categories."""
        ...

    @property
    def idempotency(self) -> Idempotency:
        """Idempotency keys with their answers."""
        ...

    @property
    def letters(self) -> Letters:
        """Dead letters."""
        ...

    @property
    def replays(self) -> Replays:
        """Replays of dead letters and their progress."""
        ...

    @property
    def accounts(self) -> Accounts:
        """Counts of accepted notifications, and gaps."""
        ...

    @property
    def days(self) -> Days:
        """The days of the history: their sums and the archive."""
        ...

    @property
    def watched(self) -> Watched:
        """Notifications that the audit will look at again."""
        ...

    @property
    def rounds(self) -> Rounds:
        """Leases and positions of the rounds."""
        ...

    @property
    def caps(self) -> Caps:
        """Counts of what passed under caps."""
        ...

    async def ping(self) -> None:
        """Return if the store answers. Raises Unavailable if it does not."""
        ...

    async def close(self) -> None:
        """Close the connections."""
        ...
