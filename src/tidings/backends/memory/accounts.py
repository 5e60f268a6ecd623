"""The accounts and the rounds in memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from uuid import UUID

from msgspec import Struct

from tidings.backends.memory.clock import Now
from tidings.model.accounting import AcceptedCount, Gap
from tidings.model.days import DAY_MINUTES


class MemoryAccounts:
    """See Accounts."""

    def __init__(self) -> None:
        self._counts: dict[tuple[int, str, UUID], int] = {}
        self._gaps: dict[tuple[int, str], Gap] = {}

    async def count(self, counter: UUID, counts: Sequence[AcceptedCount]) -> None:
        """See Accounts."""
        for one in counts:
            key = (one.minute, one.tenant, counter)
            self._counts[key] = max(one.count, self._counts.get(key, 0))

    async def accepted(self, since: int, until: int, tenant: str | None = None) -> Sequence[AcceptedCount]:
        """See Accounts."""
        sums: Counter[tuple[int, str]] = Counter()
        for (minute, owner, _), count in self._counts.items():
            if since <= minute < until and tenant in {None, owner}:
                sums[minute, owner] += count
        return [AcceptedCount(owner, minute, count) for (minute, owner), count in sorted(sums.items())]

    async def prune_counts(self, before: int, most: int) -> int:
        """See Accounts."""
        old = sorted(key for key in self._counts if key[0] < before)[:most]
        for key in old:
            del self._counts[key]
        return len(old)

    async def forget_day(self, day: int) -> None:
        """Delete the counts and gaps of an archived day, whose sums include them."""
        for key in [key for key in self._counts if key[0] // DAY_MINUTES == day]:
            del self._counts[key]
        for place in [key for key in self._gaps if key[0] // DAY_MINUTES == day]:
            del self._gaps[place]

    async def mark_gaps(self, gaps: Sequence[Gap]) -> None:
        """See Accounts."""
        for gap in gaps:
            if gap.missing > 0:
                self._gaps[gap.minute, gap.tenant] = gap
            else:
                self._gaps.pop((gap.minute, gap.tenant), None)

    async def prune_gaps(self, before: int, most: int) -> int:
        """See Accounts."""
        old = [key for key, gap in self._gaps.items() if gap.confirmed and gap.minute < before][:most]
        for key in old:
            del self._gaps[key]
        return len(old)

    async def gaps(self, tenant: str | None = None) -> Sequence[Gap]:
        """See Accounts."""
        return [gap for _, gap in sorted(self._gaps.items()) if tenant in {None, gap.tenant}]


class MemoryWatched:
    """See Watched."""

    def __init__(self) -> None:
        self._looks: dict[UUID, int] = {}

    async def watch(self, looks: Sequence[tuple[UUID, int]]) -> None:
        """See Watched."""
        self._looks.update(looks)

    async def due(self, now: int, limit: int) -> Sequence[UUID]:
        """See Watched."""
        ready = sorted((at, id) for id, at in self._looks.items() if at <= now)
        return [id for _, id in ready[:limit]]

    async def unwatch(self, ids: Collection[UUID]) -> None:
        """See Watched."""
        for id in ids:
            self._looks.pop(id, None)


class _Round(Struct):
    holder: UUID
    until: int
    position: int = 0


class MemoryRounds:
    """See Rounds."""

    def __init__(self, clock: Now) -> None:
        self._clock = clock
        self._rounds: dict[str, _Round] = {}

    async def begin(self, name: str, holder: UUID, lease_s: float) -> int | None:
        """See Rounds."""
        now = self._clock()
        until = now + round(lease_s * 1000)
        known = self._rounds.setdefault(name, _Round(holder, until))
        if known.holder != holder and known.until > now:
            return None
        known.holder, known.until = holder, until
        return known.position

    async def advance(self, name: str, holder: UUID, position: int) -> bool:
        """See Rounds."""
        known = self._rounds.get(name)
        if known is None or known.holder != holder:
            return False
        known.position = position
        return True

    async def release(self, name: str, holder: UUID) -> None:
        """See Rounds."""
        known = self._rounds.get(name)
        if known is not None and known.holder == holder:
            known.until = 0
