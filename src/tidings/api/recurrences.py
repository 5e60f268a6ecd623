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
from tidings.pipeline.changes.recurrences import RecurrenceChange, RecurrenceRequest
from tidings.policy import recurring
from tidings.policy.recurrence_rule import written
from tidings.policy.recurring import Occurrence
from tidings.report.notifications import rfc3339

router = APIRouter(prefix="/v1/recurrences", tags=["Recurrences"], route_class=StrictRoute)

NEXT = 5
"""How many coming occurrences are shown."""
_LISTING = "recurrences"


class RecurrenceState(StrEnum):
    """Whether more is to come."""

    ACTIVE = "active"
    PAUSED = "paused"
    ENDED = "ended"


class OccurrenceView(Struct, frozen=True):
    """A coming occurrence: on the wall clock, and as an instant (RFC 3339, UTC)."""

    local: str
    at: str


class RecurrenceView(Struct, frozen=True):
    """A recurrence; times are RFC 3339, UTC, except `start` and `exdates`, which are on the wall clock.

    `next` has the coming occurrences, as far as is known now; in a listing the first of them. `skipped` counts those
    that were not sent, `problem` says why the latest was not ("" when it was).
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
    """Send a notification again and again, by a rule of RFC 5545 on the wall clock.

    Each occurrence is a notification of its own, with the template that is published when it is sent. A time that the
    clock jumps over comes with the jump; one that it shows twice comes once.
    """
    created = await call.services.recurrences.create(call.tenant, await request.body())
    return answer(await _shown(call, created), 201)


@router.get(
    "",
    response_class=Response,
    responses=answered(RecurrencePage, "A page"),
    **operation(Scope.READ, "List recurrences"),
)
async def list_recurrences(call: Caller, cursor: Cursor = None, limit: Limit = None) -> Response:
    """Newest first, each with the occurrence that comes next; one by itself shows more of them."""
    size, before = call.page(limit), call.position(_LISTING, cursor, partial(from_text, RECURRENCE_PREFIX))
    found = await call.services.recurrences.list(call.tenant, before, size + 1)
    following = to_text(RECURRENCE_PREFIX, found[size - 1].id) if len(found) > size else None
    shown = [_view(recurrence, recurring.stored(recurrence)) for recurrence in found[:size]]
    return answer(RecurrencePage(shown, call.cursor(_LISTING, following)))


@router.get(
    "/{recurrence_id}",
    response_class=Response,
    responses=answered(RecurrenceView, "The recurrence"),
    **operation(Scope.READ, "Read a recurrence", before=["recurrence"]),
)
async def get_recurrence(call: Caller, recurrence_id: RecurrenceId) -> Response:
    """With its coming occurrences, and what became of the latest."""
    return answer(await _shown(call, await call.services.recurrences.get(call.tenant, _id(recurrence_id))))


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
    """What is left out stays. A new rule, start or timezone counts from now on. It stays one person's.

    A key that may not read gets the id and the state alone, here and when it pauses or resumes.
    """
    changed = await call.services.recurrences.change(call.tenant, _id(recurrence_id), await request.body())
    return answer(await _told(call, changed))


@router.delete(
    "/{recurrence_id}",
    response_class=Response,
    **operation(Scope.SEND, "Delete a recurrence", before=["recurrence"], status=204),
)
async def delete_recurrence(call: Caller, recurrence_id: RecurrenceId) -> None:
    """Nothing more comes of it. What it has sent stays."""
    await call.services.recurrences.delete(call.tenant, _id(recurrence_id))


@router.post(
    "/{recurrence_id}/pause",
    response_class=Response,
    responses=answered(RecurrenceView, "Paused"),
    **operation(Scope.SEND, "Pause a recurrence", before=["recurrence"]),
)
async def pause_recurrence(call: Caller, recurrence_id: RecurrenceId) -> Response:
    """Nothing comes of it until it is resumed."""
    return answer(await _told(call, await call.services.recurrences.pause(call.tenant, _id(recurrence_id))))


@router.post(
    "/{recurrence_id}/resume",
    response_class=Response,
    responses=answered(RecurrenceView, "Resumed"),
    **operation(Scope.SEND, "Resume a recurrence", before=["recurrence"]),
)
async def resume_recurrence(call: Caller, recurrence_id: RecurrenceId) -> Response:
    """It goes on with the next occurrence; what fell into the pause does not come any more."""
    return answer(await _told(call, await call.services.recurrences.resume(call.tenant, _id(recurrence_id))))


def _id(text: str) -> UUID:
    return from_text(RECURRENCE_PREFIX, text)


async def _told(call: Caller, recurrence: Recurrence) -> RecurrenceView | Brief:
    """The changed recurrence; the id and the state alone for a key that may not read."""
    shown = await _shown(call, recurrence)
    return shown if call.may(Scope.READ) else Brief(shown.id, shown.state.value)


async def _shown(call: Caller, recurrence: Recurrence) -> RecurrenceView:
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
