"""Users, preferences and the suppression list in memory."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from msgspec.structs import replace

from tidings.backends.memory.inbox import MemoryInbox
from tidings.model.user import DEAD_DEVICE, Address, Preferences, Profile, Suppression, User
from tidings.model.vocabulary import Channel
from tidings.policy.addresses import identity
from tidings.policy.devices import registered, settled, without
from tidings.ports.users import Person, UserKey


class MemoryUsers:
    """See Users."""

    def __init__(self, inbox: MemoryInbox) -> None:
        self._inbox = inbox
        self._users: dict[UserKey, User] = {}
        self._incarnations: dict[UserKey, int] = {}
        self._created = 0
        self._owners: dict[tuple[str, str], str] = {}
        self._suppressed: dict[tuple[str, Address], Suppression] = {}

    async def upsert(self, tenant: str, users: Sequence[tuple[str, Profile, Preferences | None]], now: int) -> None:
        """See Users."""
        for user_id, (profile, preferences) in settled(users).items():
            key = (tenant, user_id)
            known = self._users.get(key)
            if known is None:
                self._created += 1
                self._incarnations[key] = self._created
                self._inbox.empty(tenant, user_id)
                known = User(user_id, Profile())
            for token in known.profile.devices:
                self._owners.pop((tenant, token), None)
            for token in set(profile.devices) - set(known.profile.devices):
                self._claim(tenant, token, now)
            for token in profile.devices:
                self._owners[tenant, token] = user_id
            self._users[key] = User(user_id, profile, known.preferences if preferences is None else preferences, now)

    async def add_device(self, tenant: str, user_id: str, token: str, most: int, now: int) -> Profile | None:
        """See Users."""
        known = self._users.get((tenant, user_id))
        if known is None:
            return None
        profile = registered(known.profile, token, most)
        self._claim(tenant, token, now)
        await self.upsert(tenant, [(user_id, profile, None)], now)
        return profile

    async def remove_device(self, tenant: str, user_id: str, token: str, now: int) -> bool:
        """See Users."""
        known = self._users.get((tenant, user_id))
        if known is None:
            return False
        if token in known.profile.devices:
            await self.upsert(tenant, [(user_id, without(known.profile, {token}), None)], now)
        return True

    async def known(self, tenant: str, user_ids: Collection[str]) -> Mapping[str, int]:
        """See Users."""
        return {
            user_id: self._incarnations[tenant, user_id] for user_id in user_ids if (tenant, user_id) in self._users
        }

    def forget_devices(self, tenant: str, tokens: Collection[str], now: int) -> None:
        """Remove these tokens from the profiles that have them."""
        for token in tokens:
            owner = self._owners.pop((tenant, token), None)
            if owner is not None:
                user = self._users[tenant, owner]
                self._users[tenant, owner] = replace(
                    user, profile=without(user.profile, {token}), updated_at=max(now, user.updated_at)
                )

    def _claim(self, tenant: str, token: str, now: int) -> None:
        """Remove the device from its present owner's profile, and from the suppression list if it counted as dead."""
        self.forget_devices(tenant, {token}, now)
        address = Address(Channel.PUSH, token)
        listed = self._suppressed.get((tenant, address))
        if listed is not None and listed.reason in DEAD_DEVICE:
            del self._suppressed[tenant, address]

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
        known = self._users.pop((tenant, user_id), None)
        if known is None:
            return False
        for token in known.profile.devices:
            del self._owners[tenant, token]
        return True

    async def people(self, keys: Collection[UserKey]) -> Mapping[UserKey, Person]:
        """See Users."""
        return {
            key: Person(user.profile, user.preferences, self._incarnations[key])
            for key in keys
            if (user := self._users.get(key)) is not None
        }

    def listed(self, addresses: Collection[tuple[str, Address]]) -> dict[tuple[str, Address], str]:
        """Those of these `(tenant, address)` that are on the suppression list, with the reason."""
        return {
            (tenant, address): entry.reason
            for tenant, address in addresses
            if (entry := self._suppressed.get((tenant, identity(address)))) is not None
        }

    async def suppress(self, suppressions: Sequence[Suppression]) -> None:
        """See Users."""
        self.add_suppressions(suppressions)

    def add_suppressions(self, suppressions: Sequence[Suppression]) -> Sequence[Suppression]:
        """Put addresses on the suppression list. Returns the suppressions that are new."""
        added = []
        for suppression in suppressions:
            address = identity(suppression.address)
            key = (suppression.tenant, address)
            if key not in self._suppressed:
                self._suppressed[key] = replace(suppression, address=address)
                added.append(suppression)
        return added

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
