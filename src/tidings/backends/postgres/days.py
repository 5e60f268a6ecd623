"""The days of the history in PostgreSQL: their sums and the archive."""

from __future__ import annotations

from collections.abc import Sequence

from tidings.backends.postgres.archiving import Archiving
from tidings.backends.postgres.connection import translated
from tidings.backends.postgres.rolling import SQL
from tidings.model.days import ArchivedDay, DayState, DaySum, Part
from tidings.model.history import Tally
from tidings.model.vocabulary import State

_LAST_DAY = 1 << 40


class PostgresDays(Archiving):
    """See Days."""

    async def states(self, first: int, last: int) -> Sequence[DayState]:
        """See Days."""
        with translated():
            return [DayState(*row) for row in await self._pool.fetch(SQL["states"], first, last)]

    async def sums(self, tenant: str, first: int, last: int) -> tuple[Sequence[DayState], Sequence[DaySum]]:
        """See Days."""
        with translated():
            async with (
                self._pool.acquire() as connection,
                connection.transaction(isolation="repeatable_read", readonly=True),
            ):
                states = [DayState(*row) for row in await connection.fetch(SQL["states"], first, last)]
                totals = await connection.fetch(SQL["totals"], tenant, first, last)
                accounts = await connection.fetch(SQL["accounts"], tenant, first, last)
        archived = {state.day: state.archived for state in states}
        lines: dict[int, list[Tally]] = {}
        for day, kept, channel, state, reason, count in accounts:
            if kept == archived.get(day):
                lines.setdefault(day, []).append(Tally(channel or None, State(state), reason, count))
        return states, [
            DaySum(tenant, day, counted, accepted, recorded, missing, tuple(lines.get(day, ())))
            for day, kept, counted, accepted, recorded, missing in totals
            if kept == archived.get(day)
        ]

    async def closed(self, before: int) -> Sequence[int]:
        """See Days."""
        self._leaves.forget()
        return [day for day in await self._leaves.days() if day < before]

    async def archived(self, first: int | None = None, last: int | None = None) -> Sequence[ArchivedDay]:
        """See Days."""
        span = 0 if first is None else first, _LAST_DAY if last is None else last
        with translated():
            days = await self._pool.fetch(SQL["archived"], *span)
            parts: dict[int, list[Part]] = {}
            for day, *part in await self._pool.fetch(SQL["parts"], *span):
                parts.setdefault(day, []).append(Part(*part))
        return [ArchivedDay(day, at, tuple(parts.get(day, ()))) for day, at in days]

    async def tenants(self, day: int) -> Sequence[str]:
        """See Days."""
        with translated():
            return [row[0] for row in await self._pool.fetch(SQL["tenants"], day)]
