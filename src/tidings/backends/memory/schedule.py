"""The schedule in memory."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from itertools import islice
from uuid import UUID

from msgspec import Struct
from msgspec.structs import replace

from tidings.backends.memory.clock import Now
from tidings.model.outcome import Wait
from tidings.model.topics import REQUESTS
from tidings.ports.queue import Item
from tidings.ports.schedule import Scheduled, Waiting


class _Row(Struct, frozen=True):
    id: UUID
    notification_id: UUID
    due: int
    item: Item
    leased_until: int | None = None
    handed: bool = False
    held: bool = False


class MemorySchedule:
    """See Schedule. `hurried` maps each cancelled notification to the instant of its cancellation."""

    def __init__(self, clock: Now) -> None:
        self._clock = clock
        self._rows: dict[UUID, _Row] = {}
        self._number = 0
        self.hurried: dict[UUID, int] = {}

    def add(self, notification_id: UUID, wait: Wait) -> None:
        """Write a row. For a cancelled notification it is due at once, unless the wait has a shortest time."""
        self._number += 1
        hurried = self.hurried.get(notification_id)
        due = wait.due if hurried is None else min(wait.due, hurried)
        leased_until = self._clock() + wait.at_least_ms if wait.at_least_ms else None
        item = Item(wait.topic, wait.key, wait.body)
        row = _Row(UUID(int=self._number), notification_id, due, item, leased_until, wait.repeated, wait.held)
        self._rows[row.id] = row

    def hurry(self, notification_id: UUID, now: int) -> None:
        """Make the notification's rows, present and future, due at once."""
        self.hurried.setdefault(notification_id, now)
        for row in list(self._rows.values()):
            if row.notification_id == notification_id and row.due > now:
                self._rows[row.id] = replace(row, due=now)

    async def due(self, now: int, limit: int, lease_s: float) -> Sequence[Scheduled]:
        """See Schedule."""
        ready = (
            row
            for row in self._rows.values()
            if (row.due <= now if row.leased_until is None else row.leased_until <= self._clock())
        )
        taken = heapq.nsmallest(limit, ready, key=lambda row: (row.due, row.id))
        for row in taken:
            self._rows[row.id] = replace(row, leased_until=self._clock() + round(lease_s * 1000), handed=True)
        return [Scheduled(row.id, row.item, repeated=row.handed) for row in taken]

    async def settle(self, ids: Sequence[UUID]) -> None:
        """See Schedule."""
        for id in ids:
            self._rows.pop(id, None)

    async def waiting(self, notification_ids: Collection[UUID]) -> Sequence[Waiting]:
        """See Schedule."""
        wanted = set(notification_ids)
        rows = [row for row in self._rows.values() if row.notification_id in wanted]
        return [_waiting(row) for row in sorted(rows, key=lambda row: (row.due, row.id))]

    async def held(self, most: int) -> Mapping[str, int]:
        """See Schedule."""
        waiting = (row.item.topic for row in self._rows.values() if row.held)
        return Counter(islice(waiting, most))

    async def bring_forward(self, topic: str, most: int, now: int) -> None:
        """See Schedule."""
        waiting = [
            row
            for row in self._rows.values()
            if row.held and row.item.topic == topic and row.due > now and row.leased_until is None
        ]
        for row in heapq.nsmallest(most, waiting, key=lambda row: (row.due, row.id)):
            self._rows[row.id] = replace(row, due=now)

    def for_its_send_time(self, notification_id: UUID) -> Waiting | None:
        """The row with which a notification waits for its send time; None if it can no longer be changed."""
        for row in self._rows.values():
            if row.notification_id == notification_id and row.item.topic in REQUESTS:
                return None if row.handed or notification_id in self.hurried else _waiting(row)
        return None

    def change(self, row: Waiting, wait: Wait) -> bool:
        """Replace the row by `wait`. False if the row is no longer as it was read."""
        if self.for_its_send_time(row.notification) != row:
            return False
        self._rows[row.id] = _Row(row.id, row.notification, wait.due, Item(wait.topic, wait.key, wait.body))
        return True

    async def next_due(self) -> int | None:
        """See Schedule."""
        return min((row.leased_until or row.due for row in self._rows.values()), default=None)


def _waiting(row: _Row) -> Waiting:
    return Waiting(row.id, row.notification_id, row.due, row.item)
