"""record: outcomes become history, waits and suppressions. The only stage that writes to the store."""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from tidings.model.errors import Unavailable
from tidings.model.outcome import Outcome
from tidings.model.wire import encode_outcomes
from tidings.pipeline.runtime.beginning import Begin
from tidings.pipeline.runtime.reader import Aside, Partly, Taken
from tidings.ports.history import History
from tidings.ports.meter import Meter
from tidings.ports.queue import Item

_log = structlog.get_logger("tidings.record")


class Record:
    """The last stage. Writing the same fact twice changes nothing, so it may be repeated at will."""

    def __init__(self, history: History, meter: Meter) -> None:
        self._history = history
        self._meter = meter

    async def __call__(self, batch: Sequence[Taken[list[Outcome]]], _begin: Begin) -> list[Item] | Partly:
        """Write a batch of packs in one transaction; nothing goes on from here.

        A fact that the store refuses goes aside alone. One about what has been archived, or that no clock of ours can
        have dated, is counted and left out. Raises Unavailable.
        """
        outcomes = [outcome for taken in batch for outcome in taken.value]
        try:
            await self._append(outcomes)
        except Unavailable:
            raise
        except Exception:
            _log.exception("facts were refused; going on with fewer at once", count=len(outcomes))
            return Partly(outputs=[], aside=await self._in_halves(outcomes))
        return []

    async def _append(self, outcomes: Sequence[Outcome]) -> None:
        for reason, count in (await self._history.append(outcomes)).items():
            self._meter.unrecorded(reason, count)
            _log.warning("facts have no place in the history any more", why=reason, count=count)

    async def _in_halves(self, outcomes: Sequence[Outcome]) -> list[Aside]:
        """Write what can be written of refused facts; the rest, each with the reason. Their order stays."""
        refused: list[Aside] = []
        half = max(1, len(outcomes) // 2)
        for part in (outcomes[:half], outcomes[half:]):
            try:
                await self._append(part)
            except Unavailable:
                raise
            except Exception as error:
                if len(part) > 1:
                    refused += await self._in_halves(part)
                else:
                    refused.append(Aside(encode_outcomes(part), repr(error)))
        return refused
