"""The users' inboxes, which a product shows under its bell."""

from __future__ import annotations

from enum import StrEnum
from functools import partial
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Body, Path, Query
from pydantic import Field

from tidings.api.calls import Caller, Cursor, Limit, Shape, StrictRoute, UserId, operation
from tidings.api.users import known_user
from tidings.model.errors import BadId, Invalid
from tidings.model.history import InboxItem
from tidings.model.ids import DELIVERY_PREFIX, from_text, to_text
from tidings.model.tenant import Scope
from tidings.report.notifications import rfc3339

router = APIRouter(prefix="/v1/users/{user_id}/inbox", tags=["Inbox"], route_class=StrictRoute)

MOST_IDS = 1_000


class Mark(StrEnum):
    """A mark to set on items; `unread` and `unarchive` remove one."""

    SEEN = "seen"
    READ = "read"
    UNREAD = "unread"
    ARCHIVE = "archive"
    UNARCHIVE = "unarchive"


_FIELDS = {  # the field of a mark, and whether the mark is set (True) or removed
    Mark.SEEN: ("seen_at", True),
    Mark.READ: ("read_at", True),
    Mark.UNREAD: ("read_at", False),
    Mark.ARCHIVE: ("archived_at", True),
    Mark.UNARCHIVE: ("archived_at", False),
}


class ItemAnswer(Shape):
    """An item of an inbox. Times are RFC 3339, UTC; null until it is seen, read or archived."""

    id: str
    title: str
    body: str
    link: str | None
    category: str
    created_at: str
    seen_at: str | None
    read_at: str | None
    archived_at: str | None


class InboxPage(Shape):
    """Items, newest first. `next` is the cursor of the following page, null at the end."""

    items: list[ItemAnswer]
    next: str | None


class CountAnswer(Shape):
    """How many items are neither read nor archived."""

    unread: int


class MarkRequest(Shape):
    """Which items to mark: either `ids`, or `all`."""

    ids: list[str] | None = Field(
        default=None, description=f"at most {MOST_IDS}", json_schema_extra={"maxItems": MOST_IDS}
    )
    all: bool = False


class MarkAnswer(Shape):
    """How many items changed."""

    changed: int


@router.get("", **operation(Scope.READ, "List a user's inbox"))
async def list_inbox(
    call: Caller,
    user_id: UserId,
    unread_only: Annotated[bool, Query(description="leave out items that were read")] = False,
    archived: Annotated[bool, Query(description="show archived items too")] = False,
    cursor: Cursor = None,
    limit: Limit = None,
) -> InboxPage:
    """Items, newest first."""
    listing = f"inbox {user_id}"
    before = call.position(listing, cursor, partial(from_text, DELIVERY_PREFIX))
    size = call.page(limit)
    items = await call.services.inbox.list(
        call.tenant,
        user_id,
        before,
        size + 1,
        archived=archived,
        unread_only=unread_only,
    )
    if not items:
        await known_user(call, user_id)
    position = to_text(DELIVERY_PREFIX, items[size - 1].id) if len(items) > size else None
    return InboxPage(items=[_answer(item) for item in items[:size]], next=call.cursor(listing, position))


@router.get("/count", **operation(Scope.READ, "Count a user's unread items"))
async def count_unread(call: Caller, user_id: UserId) -> CountAnswer:
    """How many items are neither read nor archived: the number for the badge."""
    unread = await call.services.inbox.unread(call.tenant, user_id)
    if not unread:
        await known_user(call, user_id)
    return CountAnswer(unread=unread)


@router.post("/{mark}", **operation(Scope.MANAGE, "Mark items of an inbox", body={"all": True}, mark="read"))
async def mark_items(
    call: Caller,
    user_id: UserId,
    mark: Annotated[Mark, Path(examples=["read"])],
    items: Annotated[MarkRequest, Body()],
) -> MarkAnswer:
    """Mark items as seen, read or archived, or remove the mark. Ids that are not in this inbox are ignored."""
    field, is_set = _FIELDS[mark]
    at = call.now if is_set else None
    changed = await call.services.inbox.mark(call.tenant, user_id, _ids(items), field, at)
    if not changed:
        await known_user(call, user_id)
    return MarkAnswer(changed=changed)


def _ids(items: MarkRequest) -> list[UUID] | None:
    """The chosen items; None for all."""
    if items.all == (items.ids is not None):
        raise Invalid("ids_or_all", 'say which: either {"ids": [...]} or {"all": true}')
    if items.ids is None:
        return None
    if len(items.ids) > MOST_IDS:
        raise Invalid("too_many", f"at most {MOST_IDS} ids at once", "$.ids")
    return [_id(text, f"$.ids[{index}]") for index, text in enumerate(items.ids)]


def _id(text: str, path: str) -> UUID:
    try:
        return from_text(DELIVERY_PREFIX, text)
    except BadId as error:
        raise Invalid("invalid_id", str(error), path) from error


def _answer(item: InboxItem) -> ItemAnswer:
    return ItemAnswer(
        id=to_text(DELIVERY_PREFIX, item.id),
        title=item.title,
        body=item.body,
        link=item.link,
        category=item.category,
        created_at=rfc3339(item.created_at),
        seen_at=_moment(item.seen_at),
        read_at=_moment(item.read_at),
        archived_at=_moment(item.archived_at),
    )


def _moment(at: int | None) -> str | None:
    return None if at is None else rfc3339(at)
