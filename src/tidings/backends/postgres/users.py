"""Users, preferences and the suppression list in PostgreSQL."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping, Sequence

import msgspec

from tidings.backends.postgres import devices
from tidings.backends.postgres.connection import Connected, ConnectionPool, translated
from tidings.backends.postgres.statements import load
from tidings.model.ids import stable_bucket
from tidings.model.user import Address, Preferences, Profile, Suppression, User
from tidings.model.vocabulary import Channel
from tidings.policy.addresses import identity
from tidings.policy.devices import registered, settled, without
from tidings.ports.users import Person, UserKey

_SQL = load("users")
_encode = msgspec.json.Encoder().encode
_decode_profile = msgspec.json.Decoder(Profile).decode
_decode_preferences = msgspec.json.Decoder(Preferences).decode
_NO_PREFERENCES = Preferences()
_INCARNATION_BITS = 62
"""Fits a bigint of PostgreSQL, and is so many that two users of one id do not get the same number."""


class PostgresUsers:
    """See Users."""

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool

    async def upsert(self, tenant: str, users: Sequence[tuple[str, Profile, Preferences | None]], now: int) -> None:
        """See Users."""
        latest = settled(users)
        owners = {token: user_id for user_id, (profile, _) in latest.items() for token in profile.devices}
        with translated():
            if not owners:
                await _store(self._pool, tenant, latest, (), now)
                return
            async with self._pool.acquire() as connection, connection.transaction():
                known = await devices.begin(connection, tenant, latest, owners)
                await _store(connection, tenant, latest, owners, now)
                await devices.take(connection, tenant, owners, known, latest, now)

    async def add_device(self, tenant: str, user_id: str, token: str, most: int, now: int) -> Profile | None:
        """See Users."""
        with translated():
            async with self._pool.acquire() as connection, connection.transaction():
                known = await devices.begin(connection, tenant, [user_id], [token])
                if user_id not in known:
                    return None
                profile = registered(known[user_id], token, most)
                owners = dict.fromkeys(profile.devices, user_id)
                await _store(connection, tenant, {user_id: (profile, None)}, owners, now)
                await devices.take(connection, tenant, {token: user_id}, known, {user_id}, now)
                await devices.usable_again(connection, tenant, [token])
        return profile

    async def remove_device(self, tenant: str, user_id: str, token: str, now: int) -> bool:
        """See Users."""
        with translated():
            async with self._pool.acquire() as connection, connection.transaction():
                known = (await devices.lock(connection, [(tenant, user_id)])).get((tenant, user_id))
                if known is None:
                    return False
                if token in known.devices:
                    left = without(known, {token})
                    await _store(connection, tenant, {user_id: (left, None)}, left.devices, now)
        return True

    async def known(self, tenant: str, user_ids: Collection[str]) -> Mapping[str, int]:
        """See Users."""
        if not user_ids:
            return {}
        with translated():
            return dict(map(tuple, await self._pool.fetch(_SQL["known"], tenant, list(user_ids))))

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
            (tenant, user_id): person(profile, preferences, incarnation)
            for tenant, user_id, profile, preferences, incarnation in rows
        }

    async def suppress(self, suppressions: Sequence[Suppression]) -> None:
        """See Users."""
        if not suppressions:
            return
        listed = [(one, identity(one.address)) for one in suppressions]
        rows = sorted(
            ((one.tenant, address.channel.value, address.value, one.reason, one.at) for one, address in listed),
            key=lambda row: row[:3],
        )
        with translated():
            await self._pool.execute(_SQL["suppress"], *zip(*rows, strict=True))

    async def unsuppress(self, tenant: str, address: Address) -> bool:
        """See Users."""
        listed = identity(address)
        with translated():
            deleted = await self._pool.fetchval(_SQL["unsuppress"], tenant, listed.channel.value, listed.value)
        return deleted is not None

    async def suppressions(self, tenant: str, after: Address | None, limit: int) -> Sequence[Suppression]:
        """See Users."""
        channel, value = ("", "") if after is None else (after.channel.value, after.value)
        with translated():
            rows = await self._pool.fetch(_SQL["suppressions"], tenant, channel, value, limit)
        return [
            Suppression(tenant, Address(Channel(channel), value), reason, at) for channel, value, reason, at in rows
        ]


def person(profile: bytes, preferences: bytes | None, incarnation: int) -> Person:
    """The person of a stored row."""
    return Person(_decode_profile(profile), _preferences(preferences), incarnation)


async def _store(
    connection: Connected | ConnectionPool,
    tenant: str,
    users: Mapping[str, tuple[Profile, Preferences | None]],
    kept: Collection[str],
    now: int,
) -> None:
    """Store profiles and preferences. The users give up all devices but those with the tokens `kept`."""
    ids = sorted(users)  # one order for all writers, so that they wait for each other instead of deadlocking
    await connection.execute(
        _SQL["upsert"],
        tenant,
        now,
        ids,
        [stable_bucket(tenant, user_id) for user_id in ids],
        [_encode(users[user_id][0]) for user_id in ids],
        [None if (wanted := users[user_id][1]) is None else _encode(wanted) for user_id in ids],
        [secrets.randbits(_INCARNATION_BITS) + 1 for _ in ids],
        [devices.digest(token) for token in kept],
    )


def _preferences(stored: bytes | None) -> Preferences:
    return _NO_PREFERENCES if stored is None else _decode_preferences(stored)
