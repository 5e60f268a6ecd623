"""record: write outcomes into the store, as history, waits and suppressions. No other stage writes history."""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from tidings.model.errors import Unavailable
from tidings.model.ids import DELIVERY_PREFIX, to_text
from tidings.model.outcome import Outcome
from tidings.model.vocabulary import Reason, State
from tidings.model.wire import encode_outcomes
from tidings.pipeline.runtime.beginning import Begin
from tidings.pipeline.runtime.reader import Aside, Claimed, Partly
from tidings.pipeline.runtime.setting_aside import ASIDE
from tidings.policy.transitions import may_be_handed
from tidings.ports.history import History
from tidings.ports.meter import Meter
from tidings.ports.queue import Item

_log = structlog.get_logger("tidings.record")


class Record:
    """The last stage. It may be repeated at will, because writing the same fact twice changes nothing."""

    def __init__(self, history: History, meter: Meter) -> None:
        self._history = history
        self._meter = meter

    async def __call__(self, batch: Sequence[Claimed[list[Outcome]]], _begin: Begin) -> list[Item] | Partly:
        """Write a batch of packs in one transaction. There is nothing to put.

        A fact that the store refuses goes aside, alone. A fact about an archived day, or with an impossible date, is
        counted and left out. Raises Unavailable.
        """
        outcomes = [outcome for claimed in batch for outcome in claimed.value]
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
            _log.warning("facts were left out of the history", why=reason, count=count)

    async def _in_halves(self, outcomes: Sequence[Outcome]) -> list[Aside]:
        """Write refused facts in ever smaller parts, in order; returns those that are refused alone, with reasons."""
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
                    await self._note_doubt(part[0])
        return refused

    async def _note_doubt(self, refused: Outcome) -> None:
        """End the delivery `uncertain` if the refused fact says that a provider may have taken it.

        Without any fact it would look lost, and the audit would have it sent a second time.
        """
        if not may_be_handed(refused.state, refused.reason):
            return
        doubt = Outcome(
            id=refused.id,
            tenant=refused.tenant,
            at=refused.at,
            state=State.UNCERTAIN,
            attempt=refused.attempt,
            step=refused.step,
            reason=Reason.MAY_HAVE_BEEN_SENT,
            detail=f"the store refused the fact {refused.state.value!r}, which is in {ASIDE}",
        )
        try:
            await self._append([doubt])
        except Unavailable:
            raise
        except Exception:
            _log.exception("the doubt about a delivery was refused, too", id=to_text(DELIVERY_PREFIX, refused.id))
