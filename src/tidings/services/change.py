"""Changing a notification that waits for its send time: a plain transactional write of the API, not a stage.

docs/decisions/0014-changes-are-plain-writes.md says why.
"""

from __future__ import annotations

from uuid import UUID

import msgspec
from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import replace

from tidings.model import topics
from tidings.model.errors import Conflict, Invalid
from tidings.model.notification import Notification
from tidings.model.outcome import Outcome, Wait
from tidings.model.vocabulary import Priority, Reason, State
from tidings.model.wire import decode_notification, encode
from tidings.pipeline.compose import requests
from tidings.pipeline.compose.composer import check_variables
from tidings.pipeline.compose.requests import without_nulls
from tidings.policy import instants
from tidings.policy.routing import send_zone
from tidings.policy.wall_clock import instant_of, next_wall, zone
from tidings.ports.clock import Clock
from tidings.ports.renderer import Renderer
from tidings.ports.schedule import Changes
from tidings.ports.users import NO_USER, Users

TRIES = 5
"""How often to try a change while others change the same notification."""


class ChangeRequest(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """The fields to change. A field that is left out or null stays. `send_at` and `send_at_local` replace each other.

    Only for `expires_at` null has a meaning: the notification does not expire any more.
    """

    send_at: requests.Moment | UnsetType | None = UNSET
    send_at_local: str | UnsetType | None = UNSET
    expires_at: requests.Moment | UnsetType | None = UNSET
    data: msgspec.Raw | UnsetType = UNSET
    metadata: msgspec.Raw | UnsetType = UNSET
    priority: Priority | UnsetType | None = UNSET


_decoder = msgspec.json.Decoder(ChangeRequest)


class Change:
    """Changes notifications that wait for their send time."""

    def __init__(self, changes: Changes, users: Users, renderer: Renderer, clock: Clock) -> None:
        self._changes = changes
        self._users = users
        self._renderer = renderer
        self._clock = clock

    async def __call__(self, tenant: str, notification_id: UUID, request: ChangeRequest) -> None:
        """Change a notification. `decode` gives the request.

        Raises:
            Invalid: the change is not possible. Nothing was changed.
            Conflict: `too_late`: the notification does not wait for its send time (any more); `change_in_flight`:
                others are changing it.
            Unavailable: the store does not answer.
        """
        for _ in range(TRIES):
            row = await self._changes.waiting(tenant, notification_id)
            if row is None:
                raise Conflict(
                    "too_late", "this notification does not wait for its send time any more, so it cannot be changed"
                )
            now = self._clock.now()
            waiting = decode_notification(row.item.body)
            changed, due = await self._timed(_changed(waiting, request), request, row.due, now)
            if request.data is not UNSET:
                await self._check_data(changed)
            if changed.expires_at is not None and changed.expires_at <= max(now, due):
                raise Invalid("already_expired", "expires_at must lie in the future, and after send_at", "$.expires_at")
            following = encode(replace(changed, step=changed.step + 1))
            fact = Outcome(
                id=notification_id,
                tenant=tenant,
                at=now,
                state=State.DEFERRED,
                step=changed.step,
                reason=Reason.CHANGED,
                notification=changed,
                wait=Wait(due, topics.requests(changed.priority), row.item.key, following),
            )
            if await self._changes.change(row, fact):
                return
        raise Conflict("change_in_flight", "others are changing this notification at the same time; try again")

    async def _timed(
        self, notification: Notification, request: ChangeRequest, due: int, now: int
    ) -> tuple[Notification, int]:
        """The notification with its new time, and when it is due."""
        send_at = None if request.send_at is UNSET else request.send_at
        local = None if request.send_at_local is UNSET else request.send_at_local
        times = requests.times(send_at, None, local, now)
        if times.send_at is not None:
            return replace(notification, send_at=times.send_at, send_at_local=None), times.send_at
        if times.send_at_local is not None:
            key = (notification.tenant, notification.to.user_id or "")
            people = await self._users.people([key] if notification.to.user_id is not None else [])
            where = zone(send_zone(notification.to, people.get(key, NO_USER).profile))
            wall = next_wall(times.send_at_local, where, now)
            return replace(notification, send_at=None, send_at_local=wall.isoformat()), instant_of(wall, where)
        return notification, due

    async def _check_data(self, notification: Notification) -> None:
        if notification.template is None:
            raise Invalid("content_or_template", "this notification has its own content, which takes no data", "$.data")
        template = await self._renderer.pinned(notification.tenant, notification.template)
        data = requests.json_object(msgspec.Raw(notification.data), "$.data")
        check_variables(template, data, notification.channels)


def decode(body: bytes) -> ChangeRequest:
    """The change in a body. Raises Invalid."""
    if len(body) > requests.LARGEST_BYTES:
        raise Invalid("too_large", f"a change may have at most {requests.LARGEST_BYTES} bytes; this has {len(body)}")
    try:
        request = _decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise requests.explain(error) from error
    request = without_nulls(request, keeping=("expires_at",))
    if request == ChangeRequest():
        raise Invalid("nothing_to_change", f"name what to change: {', '.join(ChangeRequest.__struct_fields__)}")
    return request


def _changed(notification: Notification, request: ChangeRequest) -> Notification:
    """The notification with all changes but its send time. Raises Invalid."""
    if request.data is not UNSET:
        requests.json_object(request.data, "$.data")
        notification = replace(notification, data=bytes(request.data))
    if request.metadata is not UNSET:
        requests.json_object(request.metadata, "$.metadata")
        notification = replace(notification, metadata=bytes(request.metadata))
    if request.priority:
        notification = replace(notification, priority=request.priority)
    if request.expires_at is not UNSET:
        expires_at = None if request.expires_at is None else instants.parse(request.expires_at, "$.expires_at")
        notification = replace(notification, expires_at=expires_at)
    return notification
