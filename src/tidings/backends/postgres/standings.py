"""One look-up of people, suppressions and cancellations in PostgreSQL."""

from __future__ import annotations

from collections.abc import Collection
from uuid import UUID

from tidings.backends.postgres.connection import ConnectionPool, translated
from tidings.backends.postgres.statements import load
from tidings.backends.postgres.users import person
from tidings.model.user import Address
from tidings.model.vocabulary import Channel
from tidings.policy.addresses import identity
from tidings.ports.standings import Standing
from tidings.ports.users import Person, UserKey

_SQL = load("standings")


class PostgresStandings:
    """See Standings."""

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool

    async def look_up(
        self,
        users: Collection[UserKey] = (),
        addresses: Collection[tuple[str, Address]] = (),
        notifications: Collection[UUID] = (),
    ) -> Standing:
        """See Standings."""
        if not (users or addresses or notifications):
            return Standing()
        listed = [(tenant, address, identity(address)) for tenant, address in addresses]
        with translated():
            rows = await self._pool.fetch(
                _SQL["look_up"],
                [tenant for tenant, _ in users],
                [user_id for _, user_id in users],
                [tenant for tenant, _, _ in listed],
                [known_as.channel.value for _, _, known_as in listed],
                [known_as.value for _, _, known_as in listed],
                list(notifications),
            )
        people: dict[UserKey, Person] = {}
        reasons: dict[tuple[str, Address], str] = {}
        cancelled: set[UUID] = set()
        for kind, tenant, name, profile, preferences, incarnation, value, reason, id in rows:
            if kind == "person":
                people[tenant, name] = person(profile, preferences, incarnation)
            elif kind == "suppressed":
                reasons[tenant, Address(Channel(name), value)] = reason
            else:
                cancelled.add(id)
        suppressed = {
            (tenant, address): reasons[tenant, known_as]
            for tenant, address, known_as in (listed if reasons else ())
            if (tenant, known_as) in reasons
        }
        return Standing(people, suppressed, cancelled)
