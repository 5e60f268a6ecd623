"""Dead letters and replays in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from uuid import UUID, uuid4

from msgspec.structs import replace

from tidings.backends.memory.clock import Now
from tidings.backends.memory.history import MemoryHistory
from tidings.model.letters import DeadLetter, LetterFilter, Replay, ReplayState
from tidings.policy.letters import letters_of
from tidings.ports.replays import LetterPage

_OPEN = {ReplayState.WAITING, ReplayState.RUNNING}


class MemoryLetters:
    """See Letters."""

    def __init__(self, history: MemoryHistory) -> None:
        self._history = history

    async def find(self, tenant: str, filter: LetterFilter, before: UUID | None, limit: int) -> LetterPage:
        """See Letters."""
        matching = (letter for letter in self._all(tenant, filter) if before is None or letter.id < before)
        found = tuple(islice(matching, limit))
        more = next(matching, None) is not None
        return LetterPage(found, found[-1].id if more else None)

    async def count(self, tenant: str, filter: LetterFilter) -> int | None:
        """See Letters."""
        return sum(1 for _ in self._all(tenant, filter))

    def _all(self, tenant: str, filter: LetterFilter) -> Iterator[DeadLetter]:
        return (letter for record in self._history.records(tenant) for letter in letters_of(record, filter))


class MemoryReplays:
    """See Replays."""

    def __init__(self, clock: Now) -> None:
        self._clock = clock
        self._replays: dict[tuple[str, UUID], Replay] = {}
        self._ready: dict[tuple[str, UUID], int] = {}

    async def add(self, replay: Replay) -> None:
        """See Replays."""
        key = (replay.tenant, replay.id)
        if key not in self._replays:
            self._replays[key] = replay
            self._ready[key] = replay.created_at

    async def get(self, tenant: str, id: UUID) -> Replay | None:
        """See Replays."""
        return self._replays.get((tenant, id))

    async def list(self, tenant: str, before: UUID | None, limit: int) -> Sequence[Replay]:
        """See Replays."""
        mine = sorted((key for key in self._replays if key[0] == tenant), reverse=True)
        return [self._replays[key] for key in mine if before is None or key[1] < before][:limit]

    async def cancel(self, tenant: str, id: UUID, now: int) -> bool:
        """See Replays."""
        replay = self._replays.get((tenant, id))
        if replay is None or replay.state not in _OPEN:
            return False
        self._replays[tenant, id] = replace(replay, state=ReplayState.CANCELLED, finished_at=now)
        return True

    async def prune(self, before: int, most: int) -> int:
        """See Replays."""
        old = [key for key, one in self._replays.items() if one.finished_at is not None and one.finished_at < before][
            :most
        ]
        for key in old:
            del self._replays[key], self._ready[key]
        return len(old)

    async def claim(self, now: int, lease_s: float) -> Replay | None:
        """See Replays."""
        lease_over = self._clock()
        ready = [
            key
            for key, at in self._ready.items()
            if self._replays[key].state in _OPEN and at <= (now if self._replays[key].token is None else lease_over)
        ]
        if not ready:
            return None
        key = min(ready, key=lambda key: self._ready[key])
        replay = self._replays[key]
        started_at = now if replay.started_at is None else replay.started_at
        self._ready[key] = lease_over + round(lease_s * 1000)
        self._replays[key] = replace(replay, state=ReplayState.RUNNING, started_at=started_at, token=uuid4())
        return self._replays[key]

    async def progress(self, replay: Replay, ready: int) -> bool:
        """See Replays."""
        key = (replay.tenant, replay.id)
        known = self._replays.get(key)
        if known is None or replay.token is None or known.token != replay.token:
            return False
        if known.state is not ReplayState.RUNNING:
            replay = replace(replay, state=known.state, finished_at=known.finished_at)
        self._replays[key] = replace(replay, token=None)
        self._ready[key] = ready
        return True
