"""record: outcomes become history, waits and suppressions. The only stage that writes to the store."""

from __future__ import annotations

from collections.abc import Sequence

from tidings.model.outcome import Outcome
from tidings.pipeline.stage import Taken
from tidings.ports.queue import Item
from tidings.ports.store import History


class Record:
    """The last stage. Writing the same fact twice changes nothing, so it may be repeated at will."""

    def __init__(self, history: History) -> None:
        self._history = history

    async def __call__(self, batch: Sequence[Taken[list[Outcome]]]) -> list[Item]:
        """Write a batch of packs in one transaction; nothing goes on from here."""
        await self._history.append([outcome for taken in batch for outcome in taken.value])
        return []
