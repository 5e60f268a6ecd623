"""Notifications: list, read, change and cancel. Sending is in hot.py."""

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
from tidings.policy.transitions import RESTING
from tidings.report.notifications import NotificationView
from tidings.services.change import ChangeRequest, decode

router = APIRouter(prefix="/v1/notifications", tags=["Notifications"], route_class=StrictRoute)

_LISTING = "notifications"


class NotificationPage(Struct, frozen=True):
    """Notifications, newest first. `next` is the cursor of the following page, null at the end."""

    notifications: list[NotificationView]
    next: str | None


class Cancelling(Struct, frozen=True):
    """Deliveries of this notification that still wait will not be sent.

    `state` is the notification's state at the time of the request. `will_be` is the state that the unsent deliveries
    get.
    """

    id: str
    state: State
    will_be: State = State.CANCELLED


def _notification_id(position: str) -> str:
    """A cursor's position, checked to be a notification's id. Raises BadId."""
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
    filter = HistoryFilter(user_id, state, category, instant(since), instant(until))
    notifications, position = await call.services.reports.list(
        call.tenant, filter, call.position(_LISTING, cursor, _notification_id), call.page(limit)
    )
    return answer(NotificationPage(list(notifications), call.cursor(_LISTING, position)))


@router.get(
    "/{notification_id}",
    response_class=Response,
    responses=answered(NotificationView, "The notification"),
    **operation(Scope.READ, "Read a notification", before=["notification"]),
)
async def get_notification(call: Caller, notification_id: NotificationId) -> Response:
    """Its state, deliveries, attempts and timeline.

    If the notification was accepted a moment ago and is not recorded yet, the answer waits for it.
    """
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
    """Change its send time, data, metadata, priority or expiry while it waits for its send time.

    Fields that are left out stay as they are. `"expires_at": null` removes the expiry. 409 `too_late` if the
    notification does not wait for its send time. A key without the scope `read` gets only the id and the state.
    """
    change, id = decode(await request.body()), from_text(NOTIFICATION_PREFIX, notification_id)
    await call.services.reports.get(call.tenant, id)
    await call.services.change(call.tenant, id, change)
    changed = await call.services.reports.get(call.tenant, id)
    return answer(changed if call.may(Scope.READ) else Brief(changed.id, changed.state))


@router.post(
    "/{notification_id}/cancel",
    response_class=Response,
    responses=answered(Cancelling, "It will be stopped", 202),
    **operation(Scope.SEND, "Cancel a notification", before=["later"], status=202),
)
async def cancel_notification(call: Caller, notification_id: NotificationId) -> Response:
    """Stop the deliveries that have not been sent yet. 409 if none is left."""
    id = from_text(NOTIFICATION_PREFIX, notification_id)
    notification = await call.services.reports.get(call.tenant, id)
    if notification.state in RESTING:
        raise Refused(
            409,
            "already_ended",
            f"this notification is {notification.state.value}; nothing is left to stop",
            state=notification.state,
        )
    await call.services.cancellations.cancel(call.tenant, id, call.now)
    return answer(Cancelling(notification.id, notification.state), 202)
