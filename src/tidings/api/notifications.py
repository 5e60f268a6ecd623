"""Notifications: one, a list, changing and stopping one. Sending is in hot.py."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from msgspec import Struct

from tidings.api.calls import (
    Brief,
    Caller,
    Cursor,
    Instant,
    Limit,
    NotificationId,
    StrictRoute,
    answer,
    answered,
    instant,
    operation,
)
from tidings.api.problems import Refused
from tidings.model.history import HistoryFilter
from tidings.model.ids import NOTIFICATION_PREFIX, from_text
from tidings.model.tenant import Scope
from tidings.model.vocabulary import State
from tidings.pipeline.changes.change import ChangeRequest, decode
from tidings.policy.transitions import RESTING
from tidings.report.notifications import NotificationView

router = APIRouter(prefix="/v1/notifications", tags=["Notifications"], route_class=StrictRoute)

_LISTING = "notifications"


class NotificationPage(Struct, frozen=True):
    """Notifications, newest first. `next` is the cursor of the following page, null at the end."""

    notifications: list[NotificationView]
    next: str | None


class Cancelling(Struct, frozen=True):
    """What is still waiting of this notification will not be sent.

    `state` is what it was when this was asked; `will_be` is what everything of it becomes that is not sent by then.
    """

    id: str
    state: State
    will_be: State = State.CANCELLED


def _place(position: str) -> str:
    """Where the listing goes on. Raises BadId for what is no notification's id."""
    from_text(NOTIFICATION_PREFIX, position)
    return position


@router.get(
    "",
    response_class=Response,
    responses=answered(NotificationPage, "A page"),
    **operation(Scope.READ, "List notifications"),
)
async def list_notifications(
    call: Caller,
    user_id: Annotated[str | None, Query(max_length=200, description="of this user", examples=["demo"])] = None,
    state: Annotated[State | None, Query(description="in this state")] = None,
    category: Annotated[str | None, Query(max_length=64, description="of this category")] = None,
    since: Annotated[Instant | None, Query(description="accepted at or after this time (RFC 3339)")] = None,
    until: Annotated[Instant | None, Query(description="accepted before this time (RFC 3339)")] = None,
    cursor: Cursor = None,
    limit: Limit = None,
) -> Response:
    """Notifications of the tenant, newest first, each with its deliveries and timeline."""
    wanted = HistoryFilter(user_id, state, category, instant(since), instant(until))
    found, position = await call.services.reports.list(
        call.tenant, wanted, call.position(_LISTING, cursor, _place), call.page(limit)
    )
    return answer(NotificationPage(list(found), call.cursor(_LISTING, position)))


@router.get(
    "/{notification_id}",
    response_class=Response,
    responses=answered(NotificationView, "The notification"),
    **operation(Scope.READ, "Read a notification", before=["notification"]),
)
async def get_notification(call: Caller, notification_id: NotificationId) -> Response:
    """Its state, deliveries, attempts and timeline. An id that was given out a moment ago is waited for."""
    return answer(await call.services.reports.get(call.tenant, from_text(NOTIFICATION_PREFIX, notification_id)))


@router.patch(
    "/{notification_id}",
    response_class=Response,
    responses=answered(NotificationView, "The notification as it is now"),
    **operation(
        Scope.SEND,
        "Change a notification that waits",
        takes=ChangeRequest,
        body={"send_at_local": "10:30", "metadata": {"campaign": "autumn"}},
        before=["later"],
    ),
)
async def change_notification(call: Caller, notification_id: NotificationId, request: Request) -> Response:
    """Its time, data, metadata, lane or expiry, until it is sent; what is left out stays.

    409 `too_late` when it does not wait for its send time (any more). `"expires_at": null` takes the expiry away. A key
    that may not read gets the id and the state alone.
    """
    wanted, id = decode(await request.body()), from_text(NOTIFICATION_PREFIX, notification_id)
    await call.services.reports.get(call.tenant, id)
    await call.services.change(call.tenant, id, wanted)
    changed = await call.services.reports.get(call.tenant, id)
    return answer(changed if call.may(Scope.READ) else Brief(changed.id, changed.state))


@router.post(
    "/{notification_id}/cancel",
    response_class=Response,
    responses=answered(Cancelling, "It will be stopped", 202),
    **operation(Scope.SEND, "Cancel a notification", before=["later"], status=202),
)
async def cancel_notification(call: Caller, notification_id: NotificationId) -> Response:
    """Stop what has not been sent yet. 409 when nothing of it is on its way any more."""
    id = from_text(NOTIFICATION_PREFIX, notification_id)
    known = await call.services.reports.get(call.tenant, id)
    if known.state in RESTING:
        raise Refused(
            409,
            "already_ended",
            f"this notification is {known.state.value}; nothing is left to stop",
            state=known.state,
        )
    await call.services.cancellations.cancel(call.tenant, id, call.now)
    return answer(Cancelling(known.id, known.state), 202)
