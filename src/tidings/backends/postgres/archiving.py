"""Archives a day of the history: reads it in slices, seals it under a lock, then detaches and drops its tables.

Readers and writers name the leaf, so renaming it archives the day for them: a late one finds no such table and turns to
the carried tables. What was read before the lock is still right if nobody has marked the day since, because writers
mark it in the transaction in which they write.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec

from tidings.backends.postgres.connection import ConnectionPool, PooledConnection, translated
from tidings.backends.postgres.history import READ_WITHIN_S, PostgresHistory
from tidings.backends.postgres.leaves import CARRIED, LAST_ID, Leaves, Segment, statement, suffix
from tidings.backends.postgres.rolling import (
    LOCK_TIMEOUT,
    SQL,
    Line,
    Rolled,
    Rolling,
    bounds,
    hold,
    read_carried,
    segments_of,
    write_sums,
)
from tidings.model.days import Part, day_of
from tidings.model.vocabulary import State
from tidings.ports.days import EVENTS, NOTIFICATIONS, Slice

SLICE_ROWS = 50_000
SLICE_BYTES = 16_777_216
"""The most bytes of notifications' bodies in one slice."""
_CARRY_AT_ONCE = 2_000
_REST_AT_ONCE = 10_000
_BEFORE_ALL = ("", UUID(int=0))
_DIGEST = (
    "SELECT count(*), coalesce(sum(('x' || substr(md5(concat_ws(chr(31), {columns})), 1, 15))::bit(60)::bigint), 0) "
    "FROM ({rows}) AS row"
)


class Archiving(Rolling):
    """Rolls up days and archives them."""

    def __init__(self, pool: ConnectionPool, leaves: Leaves, history: PostgresHistory) -> None:
        super().__init__(pool, leaves, history)
        self._rested: dict[int, list[UUID]] = {}

    async def begin(self, day: int, now: int) -> str | None:
        """See Days."""
        with translated():
            if await self._pool.fetchval(SQL["has_default"]):
                return "`tidings migrate` has not been run to its end since the upgrade"
            await self._pool.execute(SQL["drop_carried"], *bounds(day), timeout=READ_WITHIN_S)
            if not await self._roll(day, now):
                return "it is being written to"
            gaps: int = await self._pool.fetchval(SQL["open_gaps"], day)
        if gaps:
            return f"{gaps} of its minutes have a gap that may still close"
        for tenant, lacking in (await self._lacking(day)).items():
            return f"{lacking} accepted notifications of {tenant} are neither recorded nor given up as missing"
        for segment in segments_of(day, day):
            await self._carry(segment)
        return None

    async def _lacking(self, day: int) -> Counter[str]:
        """The day's accepted notifications that are neither recorded nor missing, by tenant."""
        with translated():
            missing = _by_tenant(await self._pool.fetch(SQL["missing"], day))
            rows = await self._pool.fetch(SQL["totals_of"], day)
        return Counter({tenant: accepted - recorded for tenant, _, accepted, recorded in rows}) - missing

    async def _carry(self, segment: Segment) -> None:
        """Copy the segment's notifications in flight into the carried tables."""
        counts = await self._history.states_in(segment, None, in_flight=True)
        ids = [id for one in counts for id in one.ids]
        with translated():
            for at in range(0, len(ids), _CARRY_AT_ONCE):
                await self._pool.execute(statement("carry", segment.day, "days"), ids[at : at + _CARRY_AT_ONCE])

    async def slices(self, day: int, folder: Path) -> AsyncIterator[Slice]:
        """See Days."""
        ids = self._rested.get(day)
        leaf = day if ids is None else CARRIED
        after = _BEFORE_ALL
        number = 0
        while True:
            with translated():
                row = await self._pool.fetchrow(
                    statement("slice", leaf, "days"), *after, SLICE_ROWS, SLICE_BYTES, ids, timeout=READ_WITHIN_S
                )
            if row is None:
                break
            first, last = (row[0], row[1]), (row[2], row[3])
            for kind in (NOTIFICATIONS, EVENTS):
                number += 1
                yield await self._slice(leaf, kind, folder / f"{number}.csv", kind, (*first, *last, ids), first, last)
            after = last
        if ids is None:
            low, high = bounds(day)
            span = (("", low), ("", UUID(int=high.int - 1)))
            yield await self._slice(leaf, EVENTS, folder / "orphans.csv", "orphans", (), *span)

    async def _slice(
        self,
        leaf: int,
        kind: str,
        file: Path,
        name: str,
        arguments: tuple[object, ...],
        first: tuple[str, UUID],
        last: tuple[str, UUID],
    ) -> Slice:
        query = statement(name, leaf, "days")
        with translated():
            async with (
                self._pool.acquire() as connection,
                connection.transaction(isolation="repeatable_read", readonly=True),
            ):
                await connection.copy_from_query(query, *arguments, output=file, format="csv", timeout=READ_WITHIN_S)
                names = [one.name for one in (await connection.prepare(query)).get_attributes()]
                columns = ", ".join(f"coalesce({name}, chr(30))" for name in names)
                [(rows, digest)] = await connection.fetch(
                    _DIGEST.format(columns=columns, rows=query), *arguments, timeout=READ_WITHIN_S
                )
        return Slice(leaf, kind, file, rows, int(digest), first, last)

    async def seal(self, day: int, parts: Sequence[Part], now: int) -> bool:
        """See Days."""
        with translated():
            async with self._pool.acquire() as connection, connection.transaction():
                await hold(connection, day, "close")
                clean, _ = await self._unchanged(connection, day)
                if not clean:
                    return False
                await _archive_sums(connection, day)
                await connection.execute(SQL["settle_accounts"], day)
                await connection.execute(SQL["archive"], day, now)
                await _add_parts(connection, [(day, part) for part in parts])
                for table in ("notification", "event", "letter"):
                    name = f"{table}_{suffix(day)}"
                    await connection.execute(f"ALTER TABLE {name} RENAME TO {name}_archived")
        self._leaves.forget()
        return True

    async def clear(self) -> int:
        """See Days."""
        with translated():
            rows = [tuple(row) for row in await self._pool.fetch(SQL["left_over"])]
            for name, attached, pending in rows:
                parent = name.split("_")[0]
                async with self._pool.acquire() as connection:
                    await connection.execute(f"SET lock_timeout = '{LOCK_TIMEOUT}'")
                    try:
                        if attached:
                            how = "FINALIZE" if pending else "CONCURRENTLY"
                            await connection.execute(
                                f"ALTER TABLE {parent} DETACH PARTITION {name} {how}", timeout=READ_WITHIN_S
                            )
                        await connection.execute(f"DROP TABLE IF EXISTS {name}", timeout=READ_WITHIN_S)
                    finally:
                        await connection.execute("RESET lock_timeout")
        return len(rows)

    async def begin_carried(self, quiet_since: int) -> Sequence[int]:
        """See Days."""
        self._rested = {}
        await self._clean(CARRIED)
        everything = Segment(CARRIED, UUID(int=0), UUID(int=LAST_ID))
        counts = await self._history.states_in(everything, None, in_flight=True)
        in_flight = [id for one in counts for id in one.ids]
        with translated():
            rows = await self._pool.fetch(
                statement("quiet", CARRIED, "days"), in_flight, quiet_since, _REST_AT_ONCE, timeout=READ_WITHIN_S
            )
        for (id,) in rows:
            self._rested.setdefault(day_of(id), []).append(id)
        known = await self._leaves.days()
        # If an attempt to archive a day broke off, its leaf still exists and the carried rows are copies: leave them.
        self._rested = {day: ids for day, ids in self._rested.items() if day not in known}
        return sorted(self._rested)

    async def seal_carried(self, parts: Sequence[tuple[int, Part]], now: int) -> bool:
        """See Days."""
        with translated():
            async with self._pool.acquire() as connection, connection.transaction():
                await hold(connection, CARRIED, "close")
                clean, _ = await self._unchanged(connection, CARRIED)
                if not clean:
                    return False
                for day, ids in sorted(self._rested.items()):
                    before = await read_carried(connection, day)
                    await connection.execute(SQL["drop_rested"], ids, timeout=READ_WITHIN_S)
                    gone = before.without(await read_carried(connection, day))
                    totals = {tenant: (0, 0, count, 0) for tenant, count in gone.recorded().items()}
                    await write_sums(connection, day, gone, totals, archived=True)
                await connection.execute(SQL["passed"], sorted(self._rested))
                await _add_parts(connection, parts)
        self._rested = {}
        return True


def _by_tenant(rows: Iterable[Iterable[Any]]) -> Counter[str]:
    return Counter({tenant: count for tenant, count in rows})  # noqa: C416 - a row is no pair for the type checker


async def _archive_sums(connection: PooledConnection, day: int) -> None:
    """Store the day's sums without the carried notifications as the sums of the archive."""
    lines: Counter[Line] = Counter()
    for tenant, channel, state, reason, count in await connection.fetch(SQL["lines"], day):
        lines[tenant, channel or None, State(state), reason] = count
    carried = await read_carried(connection, day)
    missing = _by_tenant(await connection.fetch(SQL["missing"], day))
    in_flight = carried.recorded()
    totals = {
        tenant: (counted, accepted, recorded - in_flight[tenant], min(missing[tenant], accepted - recorded))
        for tenant, counted, accepted, recorded in await connection.fetch(SQL["totals_of"], day)
    }
    await write_sums(connection, day, Rolled(lines).without(carried), totals, archived=True)


async def _add_parts(connection: PooledConnection, parts: Sequence[tuple[int, Part]]) -> None:
    if parts:
        await connection.execute(
            SQL["add_parts"], *zip(*((day, *msgspec.structs.astuple(part)) for day, part in parts), strict=True)
        )
