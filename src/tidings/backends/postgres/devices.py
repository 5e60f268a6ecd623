"""The owners of devices in PostgreSQL: steps of a transaction that gives devices to users or takes them away.

A row of `device` changes only under the lock of its owner's row in `users`. Rows of `users` are locked in one order.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Collection, Mapping, Sequence

import msgspec

from tidings.backends.postgres.connection import Connected
from tidings.backends.postgres.statements import load
from tidings.model.user import DEAD_DEVICE, Profile
from tidings.policy.devices import without
from tidings.ports.users import UserKey

STRIPES = 64
"""The number of advisory locks that a tenant's devices share."""

_SQL = load("users")
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Profile).decode


def digest(token: str) -> bytes:
    """The SHA-256 of a token, by which the table device knows a device."""
    return hashlib.sha256(token.encode()).digest()


async def begin(
    connection: Connected, tenant: str, user_ids: Collection[str], tokens: Collection[str]
) -> dict[str, Profile]:
    """Lock these users and the present owners of these devices. Returns the profiles of those who exist, by user id."""
    stripes = sorted({zlib.crc32(token.encode()) % STRIPES for token in tokens})
    await connection.execute(_SQL["queue_up"], tenant, stripes)
    owners = await connection.fetch(_SQL["owners"], tenant, [digest(token) for token in tokens])
    locked = await lock(connection, {(tenant, id) for id in (*user_ids, *(row[0] for row in owners))})
    return {user_id: profile for (_, user_id), profile in locked.items()}


async def lock(connection: Connected, keys: Collection[UserKey]) -> dict[UserKey, Profile]:
    """Lock these users. Returns the profiles of those who exist."""
    if not keys:
        return {}
    rows = await connection.fetch(_SQL["lock_users"], *zip(*sorted(keys), strict=True))
    return {(tenant, user_id): _decode(profile) for tenant, user_id, profile in rows}


async def take(
    connection: Connected,
    tenant: str,
    owners: Mapping[str, str],
    known: Mapping[str, Profile],
    stored: Collection[str],
    now: int,
) -> None:
    """Give each token in `owners` to its user and take it from every other user. `known` is the result of `begin`.

    Call it after the profiles of the users `stored` are written. A token that is new to its user is taken off the
    suppression list if it is there because the vendor no longer knew it.
    """
    losing = {
        (tenant, user_id): lost
        for user_id, profile in known.items()
        if user_id not in stored and (lost := without(profile, owners)) is not profile
    }
    await replace_profiles(connection, losing, now)
    tokens = sorted(owners)
    await connection.execute(
        _SQL["take"], tenant, [digest(token) for token in tokens], [owners[token] for token in tokens]
    )
    new = [token for token in tokens if owners[token] not in known or token not in known[owners[token]].devices]
    if new:
        await usable_again(connection, tenant, new)


async def usable_again(connection: Connected, tenant: str, tokens: Sequence[str]) -> None:
    """Take these tokens off the suppression list if they are there because the vendor no longer knew them."""
    await connection.execute(_SQL["usable_again"], tenant, tokens, sorted(DEAD_DEVICE))


async def replace_profiles(connection: Connected, profiles: Mapping[UserKey, Profile], now: int) -> None:
    """Store the profiles of these users, which must be locked."""
    if profiles:
        keys = sorted(profiles)
        tenants, ids = zip(*keys, strict=True)
        await connection.execute(_SQL["replace_profiles"], tenants, ids, [_encode(profiles[key]) for key in keys], now)


async def forget(connection: Connected, gone: Sequence[tuple[str, str]], now: int) -> None:
    """Remove each `(tenant, token)` from the profile that has it."""
    tenants, tokens = zip(*gone, strict=True)
    owners = await connection.fetch(_SQL["owners_of"], tenants, [digest(token) for token in tokens])
    locked = await lock(connection, {(tenant, user_id) for tenant, user_id in owners})
    losing: dict[UserKey, Profile] = {}
    given_up: list[tuple[str, bytes, str]] = []
    for (tenant, user_id), profile in locked.items():
        lost = {token for owner, token in gone if owner == tenant and token in profile.devices}
        if lost:
            losing[tenant, user_id] = without(profile, lost)
            given_up += [(tenant, digest(token), user_id) for token in sorted(lost)]
    if given_up:
        await connection.execute(_SQL["forget"], *zip(*given_up, strict=True))
        await replace_profiles(connection, losing, now)
