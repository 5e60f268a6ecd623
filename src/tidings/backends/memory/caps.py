"""Caps counted in memory."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from tidings.policy.caps import Count, Over, kept_for_ms, take


class MemoryCaps:
    """See Caps."""

    def __init__(self) -> None:
        self._passed: dict[bytes, dict[UUID, int]] = {}
        self._until: dict[bytes, int] = {}

    async def take(self, requests: Sequence[Sequence[Count]], now: int) -> Sequence[Over | None]:
        """See Caps."""
        verdicts, changed = take(requests, self._passed, now)
        self._passed |= changed
        for counts in requests:
            for count in counts:
                if count.scope in changed:
                    self._until[count.scope] = max(self._until.get(count.scope, 0), now + kept_for_ms(count.caps))
        return verdicts

    async def prune(self, now: int) -> int:
        """See Caps."""
        over = [scope for scope, until in self._until.items() if until <= now]
        for scope in over:
            del self._until[scope], self._passed[scope]
        return len(over)
