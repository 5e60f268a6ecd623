"""Dead letters: list them, read one, replay one."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query, Response
from msgspec import Struct

from tidings.api.calls import Caller, Cursor, Instant, Limit, StrictRoute, answer, answered, instant, operation
from tidings.model.ids import DELIVERY_PREFIX, from_text, to_text
from tidings.model.letters import LetterFilter
from tidings.model.tenant import Scope
from tidings.model.vocabulary import Channel, State
from tidings.report.letters import LetterDetail, LetterView, ReplayView, letter_detail, letter_view, replay_view

router = APIRouter(prefix="/v1/dead-letters", tags=["Dead letters"], route_class=StrictRoute)

_LISTING = "dead-letters"

DeliveryId = Annotated[
    str, Path(description="a delivery's id", examples=["dlv_01k00000000000000000000002"], max_length=64)
]


class LetterPage(Struct, frozen=True):
    """Dead letters, newest first. `next` is the cursor of the following page, null at the end.

    A page may hold fewer items than asked for, even none, and still have a `next`.
    """

    dead_letters: list[LetterView]
    next: str | None


@router.get(
    "",
    response_class=Response,
    responses=answered(LetterPage, "A page"),
    **operation(Scope.READ, "List dead letters"),
)
async def list_dead_letters(
    call: Caller,
    state: Annotated[
        Literal["dead", "failed", "uncertain"] | None,
        Query(description="in this state; without it, `dead` and `failed`"),
    ] = None,
    channel: Annotated[Channel | None, Query(description="on this channel")] = None,
    category: Annotated[str | None, Query(max_length=64, description="of this category")] = None,
    provider: Annotated[str | None, Query(max_length=64, description="last tried at this provider")] = None,
    reason: Annotated[str | None, Query(max_length=64, description="ended for this reason")] = None,
    user_id: Annotated[str | None, Query(max_length=200, description="to this user", examples=["demo"])] = None,
    since: Annotated[Instant | None, Query(description="accepted at or after this time (RFC 3339)")] = None,
    until: Annotated[Instant | None, Query(description="accepted before this time (RFC 3339)")] = None,
    cursor: Cursor = None,
    limit: Limit = None,
) -> Response:
    """Deliveries that ended without success and wait for a person, newest first, each with its cause."""
    filter = LetterFilter(
        state=None if state is None else State(state),
        channel=channel,
        category=category,
        provider=provider,
        reason=reason,
        user_id=user_id,
        since=instant(since),
        until=instant(until),
    )
    before = call.position(_LISTING, cursor, partial(from_text, DELIVERY_PREFIX))
    letters, last_id = await call.services.letters.find(call.tenant, filter, before, call.page(limit))
    views = [letter_view(judged.letter, judged.obstacle) for judged in letters]
    position = None if last_id is None else to_text(DELIVERY_PREFIX, last_id)
    return answer(LetterPage(views, call.cursor(_LISTING, position)))


@router.get(
    "/{delivery_id}",
    response_class=Response,
    responses=answered(LetterDetail, "The dead letter"),
    **operation(Scope.READ, "Read a dead letter", before=["letter"]),
)
async def get_dead_letter(call: Caller, delivery_id: DeliveryId) -> Response:
    """Its cause, attempts and notification, and whether it can be replayed. 404 if it is no dead letter any more."""
    judged = await call.services.letters.get(call.tenant, from_text(DELIVERY_PREFIX, delivery_id))
    return answer(letter_detail(judged.letter, judged.obstacle))


@router.post(
    "/{delivery_id}/replay",
    response_class=Response,
    responses=answered(ReplayView, "It will be sent again", 202),
    **operation(Scope.MANAGE, "Replay a dead letter", before=["letter"], status=202),
)
async def replay_dead_letter(call: Caller, delivery_id: DeliveryId) -> Response:
    """Send it again, with a full set of attempts. Repeating this request does not send it twice.

    Opt-outs, quiet hours and the suppression list apply. An `uncertain` delivery may arrive twice. 409, with the
    obstacle as `code`, if it cannot be replayed.
    """
    replay = await call.services.letters.replay_one(call.key, from_text(DELIVERY_PREFIX, delivery_id))
    return answer(replay_view(replay), 202)
