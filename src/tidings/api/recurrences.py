"""Recurrences: notifications that are sent again and again."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from functools import partial
from typing import Annotated
from uuid import UUID

import msgspec
from fastapi import APIRouter, Path, Request, Response
from msgspec import Struct

from tidings.api.calls import Brief, Caller, Cursor, Limit, StrictRoute, answer, answered, operation
from tidings.api.samples import RECURRENCE
from tidings.model.ids import from_text, to_text
from tidings.model.recurrence import RECURRENCE_PREFIX, Recurrence
from tidings.model.tenant import Scope
from tidings.policy import recurring
from tidings.policy.recurrence_rule import written
from tidings.policy.recurring import Occurrence
from tidings.report.notifications import rfc3339
from tidings.services.recurrences import RecurrenceChange, RecurrenceRequest

router = APIRouter(prefix="/v1/recurrences", tags=["Recurrences"], route_class=StrictRoute)

NEXT = 5
"""How many coming occurrences are shown."""
_LISTING = "recurrences"


class RecurrenceState(StrEnum):
    """Whether further occurrences come."""

    ACTIVE = "active"
    PAUSED = "paused"
    ENDED = "ended"


class OccurrenceView(Struct, frozen=True):
    """A coming occurrence, in local time (`local`) and as an instant (`at`: RFC 3339, UTC)."""

    local: str
    at: str


class RecurrenceView(Struct, frozen=True):
    """A recurrence. Times are RFC 3339, UTC, except `start` and `exdates`, which are local times.

    `next` has the coming occurrences that are known now; in a listing only the first. `skipped` counts the occurrences
    that were not sent; `problem` says why the latest was not sent ("" if it was).
    """

    id: str
    name: str
    state: RecurrenceState
    rrule: str
    start: str
    timezone: str
    request: msgspec.Raw
    grace_seconds: int
    next: list[OccurrenceView]
    last_fired_at: str | None
    skipped: int
    problem: str
    created_at: str
    updated_at: str
    exdates: list[str] = []


class RecurrencePage(Struct, frozen=True):
    """Recurrences, newest first. `next` is the cursor of the following page, null at the end."""

    recurrences: list[RecurrenceView]
    next: str | None


RecurrenceId = Annotated[
    str, Path(description="a recurrence's id", examples=["rec_01k00000000000000000000000"], max_length=64)
]


@router.post(
    "",
    response_class=Response,
    responses=answered(RecurrenceView, "Created", 201),
    **operation(Scope.SEND, "Create a recurrence", takes=RecurrenceRequest, body=RECURRENCE, status=201),
)
async def create_recurrence(call: Caller, request: Request) -> Response:
    """Send a notification again and again, by a rule of RFC 5545 in local time.

    Each occurrence becomes a notification of its own, with the template version that is published then. An occurrence
    at a time that the clock skips is sent when the clock skips it; at a time that the clock shows twice, once.
    """
    created = await call.services.recurrences.create(call.tenant, await request.body())
    return answer(await _full_view(call, created), 201)


@router.get(
    "",
    response_class=Response,
    responses=answered(RecurrencePage, "A page"),
    **operation(Scope.READ, "List recurrences"),
)
async def list_recurrences(call: Caller, cursor: Cursor = None, limit: Limit = None) -> Response:
    """Newest first, each with its next occurrence; reading a single recurrence shows more occurrences."""
    size, before = call.page(limit), call.position(_LISTING, cursor, partial(from_text, RECURRENCE_PREFIX))
    recurrences = await call.services.recurrences.list(call.tenant, before, size + 1)
    position = to_text(RECURRENCE_PREFIX, recurrences[size - 1].id) if len(recurrences) > size else None
    views = [_view(recurrence, recurring.stored(recurrence)) for recurrence in recurrences[:size]]
    return answer(RecurrencePage(views, call.cursor(_LISTING, position)))


@router.get(
    "/{recurrence_id}",
    response_class=Response,
    responses=answered(RecurrenceView, "The recurrence"),
    **operation(Scope.READ, "Read a recurrence", before=["recurrence"]),
)
async def get_recurrence(call: Caller, recurrence_id: RecurrenceId) -> Response:
    """The recurrence, its coming occurrences, and why the latest was not sent, if it was not."""
    return answer(await _full_view(call, await call.services.recurrences.get(call.tenant, _id(recurrence_id))))


@router.patch(
    "/{recurrence_id}",
    response_class=Response,
    responses=answered(RecurrenceView, "The recurrence as it is now"),
    **operation(
        Scope.SEND,
        "Change a recurrence",
        takes=RecurrenceChange,
        body={"rrule": "FREQ=WEEKLY;BYDAY=TU"},
        before=["recurrence"],
    ),
)
async def change_recurrence(call: Caller, recurrence_id: RecurrenceId, request: Request) -> Response:
    """Fields that are left out stay as they are. A new rule, start or timezone takes effect from now on.

    The recipient cannot be changed. A key without the scope `read` gets only the id and the state, here and when it
    pauses or resumes.
    """
    changed = await call.services.recurrences.change(call.tenant, _id(recurrence_id), await request.body())
    return answer(await _permitted_view(call, changed))


@router.delete(
    "/{recurrence_id}",
    response_class=Response,
    **operation(Scope.SEND, "Delete a recurrence", before=["recurrence"], status=204),
)
async def delete_recurrence(call: Caller, recurrence_id: RecurrenceId) -> None:
    """It sends nothing more. Notifications that it has sent stay."""
    await call.services.recurrences.delete(call.tenant, _id(recurrence_id))


@router.post(
    "/{recurrence_id}/pause",
    response_class=Response,
    responses=answered(RecurrenceView, "Paused"),
    **operation(Scope.SEND, "Pause a recurrence", before=["recurrence"]),
)
async def pause_recurrence(call: Caller, recurrence_id: RecurrenceId) -> Response:
    """It sends nothing until it is resumed."""
    return answer(await _permitted_view(call, await call.services.recurrences.pause(call.tenant, _id(recurrence_id))))


@router.post(
    "/{recurrence_id}/resume",
    response_class=Response,
    responses=answered(RecurrenceView, "Resumed"),
    **operation(Scope.SEND, "Resume a recurrence", before=["recurrence"]),
)
async def resume_recurrence(call: Caller, recurrence_id: RecurrenceId) -> Response:
    """It goes on with the next occurrence. Occurrences during the pause are not sent any more."""
    return answer(await _permitted_view(call, await call.services.recurrences.resume(call.tenant, _id(recurrence_id))))


def _id(text: str) -> UUID:
    return from_text(RECURRENCE_PREFIX, text)


async def _permitted_view(call: Caller, recurrence: Recurrence) -> RecurrenceView | Brief:
    """The recurrence; only its id and state for a key that may not read."""
    view = await _full_view(call, recurrence)
    return view if call.may(Scope.READ) else Brief(view.id, view.state.value)


async def _full_view(call: Caller, recurrence: Recurrence) -> RecurrenceView:
    return _view(recurrence, await call.services.recurrences.upcoming(recurrence, NEXT))


def _view(recurrence: Recurrence, upcoming: Sequence[Occurrence]) -> RecurrenceView:
    progress = recurrence.progress
    if recurrence.paused:
        state = RecurrenceState.PAUSED
    else:
        state = RecurrenceState.ENDED if progress.due is None else RecurrenceState.ACTIVE
    rule, exdates = written(recurrence.rrule)
    return RecurrenceView(
        id=to_text(RECURRENCE_PREFIX, recurrence.id),
        name=recurrence.name,
        state=state,
        rrule=rule,
        start=recurrence.start,
        timezone=recurrence.timezone,
        request=msgspec.Raw(recurrence.request),
        grace_seconds=recurrence.grace,
        next=[OccurrenceView(coming.local.isoformat(), rfc3339(coming.due)) for coming in upcoming],
        last_fired_at=None if progress.fired_at is None else rfc3339(progress.fired_at),
        skipped=progress.skipped,
        problem=progress.problem,
        created_at=rfc3339(recurrence.created_at),
        updated_at=rfc3339(recurrence.updated_at),
        exdates=list(exdates),
    )
