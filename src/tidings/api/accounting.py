"""Accounts: how many notifications were accepted, and in which states they are."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Annotated

from fastapi import APIRouter, Query, Response

from tidings.api.calls import Caller, Instant, StrictRoute, answer, answered, instant, operation
from tidings.model.tenant import Scope
from tidings.report.accounting import AccountView

router = APIRouter(prefix="/v1/accounting", tags=["Accounts"], route_class=StrictRoute)


@router.get(
    "",
    response_class=Response,
    responses=answered(AccountView, "The account"),
    **operation(Scope.READ, "Account for everything that was accepted", before=["notification"]),
)
async def get_accounting(
    call: Caller,
    since: Annotated[
        Instant | date | None,
        Query(description="accepted in or after the minute of this time (RFC 3339); 24 hours before `until` if absent"),
    ] = None,
    until: Annotated[
        Instant | date | None,
        Query(description="accepted before this time, rounded up to the minute; now if absent"),
    ] = None,
) -> Response:
    """`accepted` is counted when 202 is answered, apart from the history; everything else is read from the history.

    If `balanced` is true, `accepted` equals `in_flight.total` plus the sum of `resting`. If not, `missing`
    notifications are lost: they were accepted, and are neither recorded nor queued. A day (`2026-01-31`) stands for its
    beginning in UTC.
    """
    account = await call.services.accounting.account(call.tenant, instant(_time(since)), instant(_time(until)))
    return answer(account)


def _time(moment: datetime | date | None) -> datetime | None:
    """The beginning of a day in UTC; a time as it is."""
    if moment is None or isinstance(moment, datetime):
        return moment
    return datetime(moment.year, moment.month, moment.day, tzinfo=UTC)
