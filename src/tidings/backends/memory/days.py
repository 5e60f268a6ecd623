"""The days of the history in memory. Closed days are not summed up, which would save nothing; old ones are archived."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from pathlib import Path
from uuid import UUID

from msgspec.structs import replace

from tidings.backends.memory.accounts import MemoryAccounts
from tidings.backends.memory.history import MemoryHistory
from tidings.model.accounting import MINUTE_MS
from tidings.model.days import DAY_MINUTES, DAY_MS, ArchivedDay, DayState, DaySum, Part
from tidings.model.history import NotificationRecord, Tally
from tidings.model.wire import encode
from tidings.policy.stuck import in_flight
from tidings.policy.transitions import rank
from tidings.ports.days import EVENTS, NOTIFICATIONS, Slice


class MemoryDays:
    """See Days."""

    def __init__(self, history: MemoryHistory, accounts: MemoryAccounts) -> None:
        self._history = history
        self._accounts = accounts
        self._states: dict[int, DayState] = {}
        self._sums: dict[tuple[str, int], DaySum] = {}
        self._archived: dict[int, ArchivedDay] = {}
        self._begun: dict[int, tuple[int, list[NotificationRecord]]] = {}

    async def roll(self, now: int) -> int:
        """See Days."""
        return 0

    async def states(self, first: int, last: int) -> Sequence[DayState]:
        """See Days."""
        known = {day: DayState(day) for day in self._history.days()} | self._states
        return [state for day, state in sorted(known.items()) if first <= day <= last]

    async def sums(self, tenant: str, first: int, last: int) -> tuple[Sequence[DayState], Sequence[DaySum]]:
        """See Days."""
        found = [one for (owner, day), one in sorted(self._sums.items()) if owner == tenant and first <= day <= last]
        return await self.states(first, last), found

    async def closed(self, before: int) -> Sequence[int]:
        """See Days."""
        return sorted(day for day in self._history.days() if day < before and day not in self._states)

    async def begin(self, day: int, now: int) -> str | None:
        """See Days."""
        gaps = [gap for gap in await self._accounts.gaps() if gap.minute // DAY_MINUTES == day]
        if any(not gap.confirmed for gap in gaps):
            return "some of its minutes have a gap that may still close"
        _counted, accepted, recorded = await self._counts(day)
        missing: Counter[str] = Counter()
        for gap in gaps:
            missing[gap.tenant] += gap.missing
        for tenant, count in (accepted - recorded - missing).items():
            return f"{count} accepted notifications of {tenant} are neither recorded nor given up as missing"
        records = self._history.of_day(day)
        self._begun = {day: (self._history.changes, [record for record in records if not in_flight(record)])}
        return None

    async def slices(self, day: int, folder: Path) -> AsyncIterator[Slice]:
        """See Days."""
        records = sorted(self._begun[day][1], key=_key)
        if not records:
            return
        first, last = _key(records[0]), _key(records[-1])
        rows = [_notification(record) for record in records]
        yield _slice(day, NOTIFICATIONS, folder / "1.csv", rows, first, last)
        yield _slice(day, EVENTS, folder / "2.csv", [row for one in records for row in _events(one)], first, last)

    async def seal(self, day: int, parts: Sequence[Part], now: int) -> bool:
        """See Days."""
        changes, records = self._begun.pop(day)
        if changes != self._history.changes:
            return False
        counted, accepted, recorded = await self._counts(day)
        for tenant in accepted:
            lacking = accepted[tenant] - recorded[tenant]
            self._sums[tenant, day] = DaySum(tenant, day, counted[tenant], accepted[tenant], 0, lacking)
        self._states[day] = DayState(day, archived=True, folded=True)
        self._archived[day] = ArchivedDay(day, now, ())
        self._keep(day, parts, records)
        await self._accounts.forget_day(day)
        return True

    async def clear(self) -> int:
        """See Days."""
        return 0

    async def begin_carried(self, quiet_since: int) -> Sequence[int]:
        """See Days."""
        self._begun = {}
        for day in self._states:
            rested = [
                record
                for record in self._history.of_day(day)
                if not in_flight(record) and all(event.at < quiet_since for event in record.events)
            ]
            if rested:
                self._begun[day] = self._history.changes, rested
        return sorted(self._begun)

    async def seal_carried(self, parts: Sequence[tuple[int, Part]], now: int) -> bool:
        """See Days."""
        begun, self._begun = self._begun, {}
        if any(changes != self._history.changes for changes, _ in begun.values()):
            return False
        for day, (_, records) in begun.items():
            self._keep(day, [part for owner, part in parts if owner == day], records)
        return True

    async def archived(self, first: int | None = None, last: int | None = None) -> Sequence[ArchivedDay]:
        """See Days."""
        return [
            one
            for day, one in sorted(self._archived.items())
            if (first is None or day >= first) and (last is None or day <= last)
        ]

    async def tenants(self, day: int) -> Sequence[str]:
        """See Days."""
        return sorted(tenant for tenant, owned in self._sums if owned == day)

    async def _counts(self, day: int) -> tuple[Counter[str], Counter[str], Counter[str]]:
        """The day's counted, accepted and recorded notifications, each by tenant."""
        span = day * DAY_MS // MINUTE_MS, day * DAY_MS // MINUTE_MS + DAY_MINUTES
        by_minute = Counter({(one.tenant, one.minute): one.count for one in await self._accounts.accepted(*span)})
        recorded: Counter[tuple[str, int]] = Counter()
        for one in await self._history.states(*span):
            recorded[one.tenant, one.minute] += one.count
        return _by_tenant(by_minute), _by_tenant(by_minute | recorded), _by_tenant(recorded)

    def _keep(self, day: int, parts: Sequence[Part], records: Sequence[NotificationRecord]) -> None:
        """Remove the records from the history and add them to the day's sums and parts."""
        owned: dict[str, set[UUID]] = {}
        for record in records:
            owned.setdefault(record.notification.tenant, set()).add(record.notification.id)
        for tenant, ids in owned.items():
            known = self._sums.get((tenant, day)) or DaySum(tenant, day, 0, 0, 0)
            tally = _added(known.tally, self._history.tally_of(ids))
            self._sums[tenant, day] = replace(known, recorded=known.recorded + len(ids), tally=tally)
        for record in records:
            self._history.forget(record.notification.id)
        self._history.archived.add(day)
        state, one = self._states[day], self._archived[day]
        self._states[day] = replace(state, passes=state.passes + 1)
        self._archived[day] = replace(one, parts=(*one.parts, *parts))


def _key(record: NotificationRecord) -> tuple[str, UUID]:
    return record.notification.tenant, record.notification.id


def _by_tenant(counts: Counter[tuple[str, int]]) -> Counter[str]:
    found: Counter[str] = Counter()
    for (tenant, _), count in counts.items():
        found[tenant] += count
    return found


def _added(one: Iterable[Tally], other: Iterable[Tally]) -> tuple[Tally, ...]:
    counts: Counter[tuple[str | None, object, str]] = Counter()
    for line in (*one, *other):
        counts[line.channel, line.state, line.reason] += line.count
    return tuple(Tally(channel, state, reason, count) for (channel, state, reason), count in counts.items())  # type: ignore[arg-type]  # it was a state before


def _notification(record: NotificationRecord) -> tuple[str | None, ...]:
    one = record.notification
    return (one.tenant, str(one.id), one.to.user_id, one.category, None, None, None, encode(one).hex())


def _events(record: NotificationRecord) -> list[tuple[str | None, ...]]:
    return [
        (
            record.notification.tenant, str(event.id), str(rank(event.state, event.attempt)), str(event.step),
            str(event.attempt), str(event.at), event.reason, event.provider, event.reference, event.detail,
            event.address,
        )
        for event in sorted(record.events, key=lambda event: event.id)
    ]  # fmt: skip


def _slice(
    day: int,
    kind: str,
    file: Path,
    rows: Sequence[Sequence[str | None]],
    first: tuple[str, UUID],
    last: tuple[str, UUID],
) -> Slice:
    with file.open("w", encoding="utf-8", errors="replace", newline="") as out:
        for row in rows:
            out.write(",".join("" if text is None else '"' + text.replace('"', '""') + '"' for text in row) + "\n")
    digest = sum(int(hashlib.md5(_line(row), usedforsecurity=False).hexdigest()[:15], 16) for row in rows)
    return Slice(day, kind, file, len(rows), digest, first, last)


def _line(row: Sequence[str | None]) -> bytes:
    return "\x1f".join("\x1e" if text is None else text for text in row).encode(errors="replace")
