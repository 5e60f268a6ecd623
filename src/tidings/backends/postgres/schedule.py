"""The schedule in PostgreSQL, with the changes and cancellations of waiting notifications."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from operator import itemgetter
from uuid import UUID

from tidings.backends.postgres.connection import ConnectionPool, translated
from tidings.backends.postgres.leaves import Leaves
from tidings.backends.postgres.statements import load
from tidings.backends.postgres.writing import key_text
from tidings.model.outcome import Outcome
from tidings.model.topics import REQUESTS
from tidings.model.wire import encode
from tidings.policy.transitions import rank
from tidings.ports.queue import Item
from tidings.ports.schedule import Scheduled, Waiting

_SQL = load("schedule")
_by_due = itemgetter(1, 0)


class PostgresSchedule:
    """See Schedule."""

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool

    async def due(self, now: int, limit: int, lease_s: float) -> Sequence[Scheduled]:
        """See Schedule."""
        with translated():
            rows = await self._pool.fetch(_SQL["due"], now, limit, round(lease_s * 1000))
        rows.sort(key=_by_due)
        return [Scheduled(id, Item(topic, key_text(key), body), repeated) for id, _, topic, key, body, repeated in rows]

    async def settle(self, ids: Sequence[UUID]) -> None:
        """See Schedule."""
        with translated():
            await self._pool.execute(_SQL["settle"], ids)

    async def waiting(self, notification_ids: Collection[UUID]) -> Sequence[Waiting]:
        """See Schedule."""
        if not notification_ids:
            return []
        with translated():
            rows = await self._pool.fetch(_SQL["waiting"], list(notification_ids))
        return [_waiting(*row) for row in rows]

    async def held(self, most: int) -> Mapping[str, int]:
        """See Schedule."""
        with translated():
            rows = await self._pool.fetch(_SQL["held"], most)
        return dict(map(tuple, rows))

    async def bring_forward(self, topic: str, most: int, now: int) -> None:
        """See Schedule."""
        with translated():
            await self._pool.execute(_SQL["bring_forward"], topic, most, now)

    async def next_due(self) -> int | None:
        """See Schedule."""
        with translated():
            first: int | None = await self._pool.fetchval(_SQL["next_due"])
        return first


class PostgresChanges:
    """See Changes."""

    def __init__(self, leaves: Leaves) -> None:
        self._leaves = leaves

    async def waiting(self, tenant: str, notification_id: UUID) -> Waiting | None:
        """See Changes."""
        day = await self._leaves.of(notification_id)
        rows = await self._leaves.fetch("changeable", day, tenant, notification_id, REQUESTS, file="schedule")
        return _waiting(*rows[0]) if rows else None

    async def change(self, row: Waiting, changed: Outcome) -> bool:
        """See Changes."""
        notification, wait = changed.notification, changed.wait
        assert notification is not None and wait is not None, "a change has both"  # noqa: S101, PT018 - one promise
        [(done,)] = await self._leaves.fetch(
            "change", await self._leaves.of(notification.id), row.id, row.item.body, changed.tenant, notification.id,
            wait.due, wait.topic, wait.body, encode(notification), rank(changed.state, changed.attempt), changed.step,
            changed.attempt, changed.at, changed.reason, file="schedule",
        )  # fmt: skip
        return bool(done)


def _waiting(id: UUID, notification: UUID, due: int, topic: str, key: bytes, body: bytes) -> Waiting:
    return Waiting(id, notification, due, Item(topic, key_text(key), body))


class PostgresCancellations:
    """See Cancellations."""

    def __init__(self, pool: ConnectionPool, leaves: Leaves) -> None:
        self._pool = pool
        self._leaves = leaves

    async def cancel(self, tenant: str, notification_id: UUID, now: int) -> None:
        """See Cancellations."""
        day = await self._leaves.of(notification_id)
        await self._leaves.fetch("cancel", day, tenant, notification_id, now, file="schedule")

    async def prune(self, before: int, most: int) -> int:
        """See Cancellations."""
        with translated():
            deleted: int = await self._pool.fetchval(_SQL["prune_cancellations"], before, most)
        return deleted
