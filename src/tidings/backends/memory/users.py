"""Users, preferences and the suppression list in memory."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from msgspec.structs import replace

from tidings.backends.memory.inbox import MemoryInbox
from tidings.model.user import Address, Preferences, Profile, Suppression, User
from tidings.policy.addresses import identity
from tidings.ports.store import Person, UserKey


class MemoryUsers:
    """See Users."""

    def __init__(self, inbox: MemoryInbox) -> None:
        self._inbox = inbox
        self._users: dict[UserKey, User] = {}
        self._suppressed: dict[tuple[str, Address], Suppression] = {}

    async def upsert(self, tenant: str, users: Sequence[tuple[str, Profile, Preferences | None]], now: int) -> None:
        """See Users."""
        for user_id, profile, preferences in users:
            known = self._users.get((tenant, user_id))
            kept = Preferences() if known is None else known.preferences
            self._users[tenant, user_id] = User(user_id, profile, kept if preferences is None else preferences, now)

    async def get(self, tenant: str, user_id: str) -> User | None:
        """See Users."""
        return self._users.get((tenant, user_id))

    async def set_preferences(self, tenant: str, user_id: str, preferences: Preferences, now: int) -> bool:
        """See Users."""
        known = self._users.get((tenant, user_id))
        if known is None:
            return False
        self._users[tenant, user_id] = replace(known, preferences=preferences, updated_at=now)
        return True

    async def delete(self, tenant: str, user_id: str) -> bool:
        """See Users."""
        self._inbox.empty(tenant, user_id)
        return self._users.pop((tenant, user_id), None) is not None

    async def people(self, keys: Collection[UserKey]) -> Mapping[UserKey, Person]:
        """See Users."""
        return {
            key: Person(user.profile, user.preferences) for key in keys if (user := self._users.get(key)) is not None
        }

    async def suppressed(self, addresses: Collection[tuple[str, Address]]) -> Mapping[tuple[str, Address], str]:
        """See Users."""
        return {
            (tenant, address): entry.reason
            for tenant, address in addresses
            if (entry := self._suppressed.get((tenant, identity(address)))) is not None
        }

    async def suppress(self, suppressions: Sequence[Suppression]) -> None:
        """See Users."""
        for suppression in suppressions:
            address = identity(suppression.address)
            self._suppressed.setdefault((suppression.tenant, address), replace(suppression, address=address))

    async def unsuppress(self, tenant: str, address: Address) -> bool:
        """See Users."""
        return self._suppressed.pop((tenant, identity(address)), None) is not None

    async def suppressions(self, tenant: str, after: Address | None, limit: int) -> Sequence[Suppression]:
        """See Users."""
        mine = sorted(
            (entry for (owner, _), entry in self._suppressed.items() if owner == tenant),
            key=lambda entry: _place(entry.address),
        )
        return [entry for entry in mine if after is None or _place(entry.address) > _place(after)][:limit]


def _place(address: Address) -> tuple[str, str]:
    return address.channel.value, address.value
