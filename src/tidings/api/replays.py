"""Replays: send all dead letters that match a filter again, at a given rate."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal

import msgspec
from fastapi import APIRouter, Header, Path, Request, Response
from msgspec import Meta, Struct

from tidings.api.calls import Caller, Cursor, Limit, StrictRoute, answer, answered, operation, read
from tidings.api.front import BODY
from tidings.model.errors import Invalid
from tidings.model.ids import REPLAY_PREFIX, from_text, to_text
from tidings.model.letters import LetterFilter
from tidings.model.tenant import Scope
from tidings.model.vocabulary import Channel, State
from tidings.pipeline.compose.requests import Moment
from tidings.policy import instants
from tidings.report.letters import ReplayView, replay_view

router = APIRouter(prefix="/v1/replays", tags=["Dead letters"], route_class=StrictRoute)

_LISTING = "replays"
_EXAMPLE = {"filter": {"channel": "sms", "since": "2026-01-31T09:00:00Z"}, "per_second": 20}
_Text = Annotated[str, Meta(max_length=200)]

ReplayId = Annotated[str, Path(description="a replay's id", examples=["rpl_01k00000000000000000000000"], max_length=64)]
IdempotencyKey = Annotated[
    str | None,
    Header(alias="Idempotency-Key", description="makes a repeated request harmless: any text of your own choosing"),
]


_PER_SECOND = 50


class ReplayFilter(Struct, frozen=True, forbid_unknown_fields=True):
    """Which dead letters to send again, as in their listing. An empty filter means all that are `dead` or `failed`."""

    state: Literal["dead", "failed", "uncertain"] | None = None
    channel: Channel | None = None
    category: _Text | None = None
    provider: _Text | None = None
    reason: _Text | None = None
    user_id: _Text | None = None
    since: Moment | None = None
    until: Moment | None = None


class ReplayRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """Which dead letters to send again, and how many a second."""

    filter: ReplayFilter | None = ReplayFilter()
    per_second: Annotated[float, Meta(ge=1, le=10_000, multiple_of=1)] | None = _PER_SECOND


class ReplayPage(Struct, frozen=True):
    """Replays, newest first. `next` is the cursor of the following page, null at the end."""

    replays: list[ReplayView]
    next: str | None


@router.post(
    "",
    response_class=Response,
    responses=answered(ReplayView, "They will be sent again", 202),
    **operation(Scope.MANAGE, "Replay dead letters", takes=ReplayRequest, body=_EXAMPLE, before=["letter"], status=202),
)
async def create_replay(call: Caller, request: Request, idempotency_key: IdempotencyKey = None) -> Response:
    """Send all matching dead letters again, newest first, `per_second` of them a second. `{}` matches every one.

    Dead letters that cannot be sent any more (expired, cancelled, user gone, address suppressed) are skipped and
    counted.
    """
    if BODY not in request.scope:
        raise Invalid("missing_body", "say which dead letters to send again; the body {} means every one")
    replay_request = read(request, ReplayRequest)
    given = replay_request.filter or ReplayFilter()
    filter = LetterFilter(
        state=None if given.state is None else State(given.state),
        channel=given.channel,
        category=given.category,
        provider=given.provider,
        reason=given.reason,
        user_id=given.user_id,
        since=_instant(given.since, "$.filter.since"),
        until=_instant(given.until, "$.filter.until"),
    )
    body = msgspec.json.encode(request.scope[BODY])
    replay, is_repeated = await call.services.letters.replay(
        call.key, filter, int(replay_request.per_second or _PER_SECOND), idempotency_key, body
    )
    response = answer(replay_view(replay), 202)
    response.headers["Location"] = f"/v1/replays/{to_text(REPLAY_PREFIX, replay.id)}"
    if is_repeated:
        response.headers["Idempotency-Replayed"] = "true"
    return response


def _instant(text: str | None, path: str) -> int | None:
    try:
        return None if text is None else max(0, instants.parse(text, path))
    except Invalid as error:
        raise Invalid("invalid_time", error.detail, path) from error


@router.get(
    "",
    response_class=Response,
    responses=answered(ReplayPage, "A page"),
    **operation(Scope.READ, "List replays"),
)
async def list_replays(call: Caller, cursor: Cursor = None, limit: Limit = None) -> Response:
    """Newest first, replays of single dead letters included."""
    before = call.position(_LISTING, cursor, partial(from_text, REPLAY_PREFIX))
    replays, last_id = await call.services.letters.replays(call.tenant, before, call.page(limit))
    position = None if last_id is None else to_text(REPLAY_PREFIX, last_id)
    return answer(ReplayPage([replay_view(replay) for replay in replays], call.cursor(_LISTING, position)))


@router.get(
    "/{replay_id}",
    response_class=Response,
    responses=answered(ReplayView, "The replay"),
    **operation(Scope.READ, "Read a replay", before=["replay"]),
)
async def get_replay(call: Caller, replay_id: ReplayId) -> Response:
    """Its state, its filter, and how many dead letters it has found, replayed and skipped."""
    return answer(replay_view(await call.services.letters.known(call.tenant, from_text(REPLAY_PREFIX, replay_id))))


@router.post(
    "/{replay_id}/cancel",
    response_class=Response,
    responses=answered(ReplayView, "It stops"),
    **operation(Scope.MANAGE, "Cancel a replay", before=["slow_replay"]),
)
async def cancel_replay(call: Caller, replay_id: ReplayId) -> Response:
    """It stops within a few seconds. Deliveries that it has sent again already go on. 409 if it has ended."""
    return answer(replay_view(await call.services.letters.cancel(call.tenant, from_text(REPLAY_PREFIX, replay_id))))
