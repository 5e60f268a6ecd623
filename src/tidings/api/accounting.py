"""The accounts: where everything that was accepted rests."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response
from msgspec import Struct

from tidings.api.calls import Caller, Instant, StrictRoute, answer, answered, instant, operation
from tidings.model.tenant import Scope
from tidings.report.notifications import TallyView

router = APIRouter(prefix="/v1/tally", tags=["Accounts"], route_class=StrictRoute)


class TallyAnswer(Struct, frozen=True):
    """Counts by channel, state and reason; a row without a channel counts notifications, the others deliveries."""

    tally: list[TallyView]


@router.get(
    "",
    response_class=Response,
    responses=answered(TallyAnswer, "The counts"),
    **operation(Scope.READ, "Count where everything rests"),
)
async def get_tally(
    call: Caller,
    since: Annotated[Instant | None, Query(description="accepted at or after this time (RFC 3339)")] = None,
) -> Response:
    """The rows of notifications sum up to what was accepted and recorded; nothing is left out."""
    return answer(TallyAnswer(list(await call.services.reports.tally(call.tenant, instant(since)))))
