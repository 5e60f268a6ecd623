"""Users, their preferences and devices, and the suppression list.

Every method that takes a `tenant` sees only that tenant's rows. Adapters raise `Unavailable` when the database does not
answer; unless stated otherwise, nothing was written then.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from msgspec import Struct

from tidings.model.user import Address, Preferences, Profile, Suppression, User

UserKey = tuple[str, str]
"""(tenant, user_id)"""


class Person(Struct, frozen=True, gc=False):
    """A recipient, as far as routing and delivering need it. `incarnation` is None if there is no such user."""

    profile: Profile | None = None
    preferences: Preferences = Preferences()
    incarnation: int | None = None


NO_USER = Person()
"""The person for an inline recipient, or for an id without a user."""


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

    async def suppress(self, suppressions: Sequence[Suppression]) -> None:
        """Put addresses on the suppression list. An address that is already on it keeps its first reason.

        In all methods here and in `History.append`, the list knows an address by its identity (policy/addresses.py):
        any spelling of an address finds it.
        """
        ...

    async def unsuppress(self, tenant: str, address: Address) -> bool:
        """Take an address off the suppression list. False if it was not on it."""
        ...

    async def suppressions(self, tenant: str, after: Address | None, limit: int) -> Sequence[Suppression]:
        """The suppression list, sorted by channel and value, from `after` (exclusive) on."""
        ...
