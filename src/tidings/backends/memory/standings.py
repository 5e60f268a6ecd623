"""One look-up of people, suppressions and cancellations in memory."""

from __future__ import annotations

from collections.abc import Collection
from uuid import UUID

from tidings.backends.memory.schedule import MemorySchedule
from tidings.backends.memory.users import MemoryUsers
from tidings.model.user import Address
from tidings.ports.standings import Standing
from tidings.ports.users import UserKey


class MemoryStandings:
    """See Standings."""

    def __init__(self, users: MemoryUsers, schedule: MemorySchedule) -> None:
        self._users = users
        self._schedule = schedule

    async def look_up(
        self,
        users: Collection[UserKey] = (),
        addresses: Collection[tuple[str, Address]] = (),
        notifications: Collection[UUID] = (),
    ) -> Standing:
        """See Standings."""
        cancelled = {id for id in notifications if id in self._schedule.hurried}
        return Standing(await self._users.people(users), self._users.listed(addresses), cancelled)
