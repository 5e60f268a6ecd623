"""retention: sum up closed days, and archive old ones. One process at a time makes the rounds.

A day is written to the object store slice by slice. Each object is read back and compared with the database's count and
digest of the same rows. Only when all objects are proven, the day is sealed and its tables are dropped. After a crash
the day is either unsealed, and the next round archives it anew; or sealed, and the next round drops its tables.
"""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from collections.abc import Sequence
from pathlib import Path
from uuid import uuid4

import msgspec
import structlog

from tidings.model.days import DAY_MS, Part, day_text
from tidings.model.errors import Unreadable
from tidings.pipeline.rounds.rounds import leave, repeat
from tidings.pipeline.runtime.stopping import pause
from tidings.policy.days import QUIET_DAYS, ripe
from tidings.ports.archive import ArchiveFiles
from tidings.ports.clock import Clock
from tidings.ports.days import Slice
from tidings.ports.meter import RetentionMeter
from tidings.ports.objects import Objects
from tidings.ports.store import Directory, Shard

ROUND = "retention"
ARCHIVE = "archive/"
EVERY_S = 3600.0
"""Seconds between two rounds."""
FIRST_AFTER_S = 300.0
"""Seconds until a process makes its first round, because it is busy enough while it starts."""
LEASE_S = 900.0
"""Lease of the round, renewed with each slice."""

_log = structlog.get_logger("tidings.retention")


class Unproven(Exception):
    """An object in the store does not hold what was written into it."""


class Lost(Exception):
    """Another process makes the rounds now."""


class Retention:
    """See the module. `days`: how many days stay in the database (0: all)."""

    def __init__(
        self,
        directory: Directory,
        shard: Shard,
        objects: Objects,
        files: ArchiveFiles,
        clock: Clock,
        meter: RetentionMeter,
        days: int,
    ) -> None:
        self._days = shard.days
        self._rounds = directory.rounds
        self._objects = objects
        self._files = files
        self._clock = clock
        self._meter = meter
        self._kept = days
        self._holder = uuid4()

    async def run(self, stopping: asyncio.Event) -> None:
        """Make rounds until `stopping` is set, then leave them to other processes."""
        await pause(FIRST_AFTER_S, stopping, self._clock)
        await repeat(ROUND, self.once, EVERY_S, stopping, self._clock, self._meter)
        await leave(self._rounds, ROUND, self._holder)

    async def once(self) -> bool:
        """Make one round; False if another process makes the rounds. Raises Unavailable."""
        try:
            await self._hold()
            await self._days.clear()
            await self._days.roll(self._clock.now())
            today = self._clock.now() // DAY_MS
            for day in ripe(await self._days.closed(today), today, self._kept):
                await self._hold()
                await self._archive(day)
            if self._kept:
                await self._archive_carried()
            await self._days.clear()
        except Lost:
            return False
        return True

    async def _hold(self) -> None:
        if await self._rounds.begin(ROUND, self._holder, LEASE_S) is None:
            raise Lost

    async def _archive(self, day: int) -> None:
        why = await self._days.begin(day, self._clock.now())
        if why is not None:
            _log.warning("a day is archived later", day=day_text(day), why=why)
            self._meter.unarchived(day_text(day))
            return
        try:
            parts = await self._write(day)
        except (Unproven, Unreadable) as error:
            self._meter.failure(ROUND, "", "unproven")
            _log.error("a day is kept, because its archive could not be proven", day=day_text(day), why=str(error))
            return
        if not await self._days.seal(day, parts, self._clock.now()):
            _log.info("a day is archived later", day=day_text(day), why="something was written to it meanwhile")
            return
        await self._tidy(day)
        await self._days.clear()
        self._report(day, parts)

    async def _archive_carried(self) -> None:
        """Archive the carried notifications that rest now."""
        days = await self._days.begin_carried(self._clock.now() - QUIET_DAYS * DAY_MS)
        if not days:
            return
        parts: list[tuple[int, Part]] = []
        try:
            for day in days:
                parts += [(day, part) for part in await self._write(day)]
        except (Unproven, Unreadable) as error:
            self._meter.failure(ROUND, "", "unproven")
            _log.error("carried notifications are kept, because their archive could not be proven", why=str(error))
            return
        if await self._days.seal_carried(parts, self._clock.now()):
            for day in days:
                self._report(day, [part for owner, part in parts if owner == day])

    async def _write(self, day: int) -> list[Part]:
        """Write each slice of the day as an object, and prove it. Raises Unproven, Unreadable, Lost, Unavailable."""
        [state] = await self._days.states(day, day)
        parts: list[Part] = []
        with tempfile.TemporaryDirectory(prefix="tidings-archive-") as folder:
            async for one in self._days.slices(day, Path(folder)):
                await self._hold()
                if one.rows:
                    number = len(parts) + 1
                    name = f"{ARCHIVE}{day_text(day)}/{one.kind}-{state.passes}-{number:05}{self._files.suffix}"
                    parts.append(await self._put(name, one))
                one.file.unlink(missing_ok=True)
        if parts:
            manifest = f"{ARCHIVE}{day_text(day)}/manifest-{state.passes}.json"
            await self._objects.put(manifest, msgspec.json.format(msgspec.json.encode(parts)))
        return parts

    async def _put(self, name: str, one: Slice) -> Part:
        written = one.file.with_suffix(self._files.suffix)
        await self._files.write(one.kind, one.file, written)
        body = written.read_bytes()
        digest = hashlib.sha256(body).hexdigest()
        await self._objects.put(name, body)
        back = await self._objects.get(name)
        if back is None or hashlib.sha256(back).hexdigest() != digest:
            raise Unproven(f"{name} is not what was written")
        written.write_bytes(back)
        found = await self._files.check(one.kind, written)
        written.unlink()
        if found != (one.rows, one.digest):
            raise Unproven(f"{name} has {found[0]} rows of {one.rows}, or other ones")
        return Part(name, one.kind, one.rows, len(body), digest, *one.first, *one.last)

    async def _tidy(self, day: int) -> None:
        """Delete objects that broken-off attempts to archive the day have left."""
        [known] = await self._days.archived(day, day)
        names = {part.name for part in known.parts}
        left = [name async for name in self._objects.list(f"{ARCHIVE}{day_text(day)}/")]
        for name in left:
            if name.endswith(self._files.suffix) and name not in names:
                await self._objects.delete(name)

    def _report(self, day: int, parts: Sequence[Part]) -> None:
        rows = {kind: sum(part.rows for part in parts if part.kind == kind) for kind in {part.kind for part in parts}}
        self._meter.archived(sum(part.rows for part in parts), sum(part.bytes for part in parts))
        _log.info("archived", day=day_text(day), objects=len(parts), bytes=sum(part.bytes for part in parts), **rows)
