"""Users, preferences and the suppression list in PostgreSQL."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import msgspec

from tidings.backends.postgres.connection import ConnectionPool, translated
from tidings.backends.postgres.statements import load
from tidings.model.ids import stable_bucket
from tidings.model.user import Address, Preferences, Profile, Suppression, User
from tidings.model.vocabulary import Channel
from tidings.policy.addresses import identity
from tidings.ports.store import Person, UserKey

_SQL = load("users")
_encode = msgspec.json.Encoder().encode
_decode_profile = msgspec.json.Decoder(Profile).decode
_decode_preferences = msgspec.json.Decoder(Preferences).decode
_NO_PREFERENCES = Preferences()


class PostgresUsers:
    """See Users."""

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool

    async def upsert(self, tenant: str, users: Sequence[tuple[str, Profile, Preferences | None]], now: int) -> None:
        """See Users. When a user is there twice the later one counts."""
        latest: dict[str, tuple[Profile, Preferences | None]] = {}
        for user_id, profile, preferences in users:
            earlier = latest.get(user_id, (profile, None))[1]
            latest[user_id] = (profile, earlier if preferences is None else preferences)
        ids = sorted(latest)  # one order for all writers, so that they wait for each other and never deadlock
        with translated():
            await self._pool.execute(
                _SQL["upsert"],
                tenant,
                now,
                ids,
                [stable_bucket(tenant, user_id) for user_id in ids],
                [_encode(latest[user_id][0]) for user_id in ids],
                [None if (wanted := latest[user_id][1]) is None else _encode(wanted) for user_id in ids],
            )

    async def get(self, tenant: str, user_id: str) -> User | None:
        """See Users."""
        with translated():
            row = await self._pool.fetchrow(_SQL["get"], tenant, user_id)
        if row is None:
            return None
        return User(user_id, _decode_profile(row["profile"]), _preferences(row["preferences"]), row["updated_at"])

    async def set_preferences(self, tenant: str, user_id: str, preferences: Preferences, now: int) -> bool:
        """See Users."""
        with translated():
            changed = await self._pool.fetchval(_SQL["set_preferences"], tenant, user_id, _encode(preferences), now)
        return changed is not None

    async def delete(self, tenant: str, user_id: str) -> bool:
        """See Users."""
        with translated():
            deleted = await self._pool.fetchval(_SQL["delete"], tenant, user_id)
        return deleted is not None

    async def people(self, keys: Collection[UserKey]) -> Mapping[UserKey, Person]:
        """See Users."""
        if not keys:
            return {}
        tenants, ids = zip(*keys, strict=True)
        with translated():
            rows = await self._pool.fetch(_SQL["people"], tenants, ids)
        return {
            (tenant, user_id): Person(_decode_profile(profile), _preferences(preferences))
            for tenant, user_id, profile, preferences in rows
        }

    async def suppressed(self, addresses: Collection[tuple[str, Address]]) -> Mapping[tuple[str, Address], str]:
        """See Users."""
        if not addresses:
            return {}
        asked = [(tenant, address, identity(address)) for tenant, address in addresses]
        with translated():
            rows = await self._pool.fetch(
                _SQL["suppressed"],
                [tenant for tenant, _, _ in asked],
                [known.channel.value for _, _, known in asked],
                [known.value for _, _, known in asked],
            )
        if not rows:
            return {}
        listed = {(tenant, Address(Channel(channel), value)): reason for tenant, channel, value, reason in rows}
        return {
            (tenant, address): listed[tenant, known] for tenant, address, known in asked if (tenant, known) in listed
        }

    async def suppress(self, suppressions: Sequence[Suppression]) -> None:
        """See Users."""
        if not suppressions:
            return
        known = [(one, identity(one.address)) for one in suppressions]
        rows = sorted(
            ((one.tenant, address.channel.value, address.value, one.reason, one.at) for one, address in known),
            key=lambda row: row[:3],
        )
        with translated():
            await self._pool.execute(_SQL["suppress"], *zip(*rows, strict=True))

    async def unsuppress(self, tenant: str, address: Address) -> bool:
        """See Users."""
        known = identity(address)
        with translated():
            deleted = await self._pool.fetchval(_SQL["unsuppress"], tenant, known.channel.value, known.value)
        return deleted is not None

    async def suppressions(self, tenant: str, after: Address | None, limit: int) -> Sequence[Suppression]:
        """See Users."""
        channel, value = ("", "") if after is None else (after.channel.value, after.value)
        with translated():
            rows = await self._pool.fetch(_SQL["suppressions"], tenant, channel, value, limit)
        return [
            Suppression(tenant, Address(Channel(channel), value), reason, at) for channel, value, reason, at in rows
        ]


def _preferences(stored: bytes | None) -> Preferences:
    return _NO_PREFERENCES if stored is None else _decode_preferences(stored)
