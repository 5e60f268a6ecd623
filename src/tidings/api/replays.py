"""Replays: all dead letters that match are sent again, at a rate."""

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
    """Which dead letters, as in their listing. Nothing given: all that are dead or failed."""

    state: Literal["dead", "failed", "uncertain"] | None = None
    channel: Channel | None = None
    category: _Text | None = None
    provider: _Text | None = None
    reason: _Text | None = None
    user_id: _Text | None = None
    since: Moment | None = None
    until: Moment | None = None


class ReplayRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """What to send again, and how many of them a second."""

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
    """Send all that match again, newest first, `per_second` of them a second. `{}` means every one.

    What cannot be sent any more (expired, cancelled, its user gone, its address suppressed) is skipped and counted.
    """
    if BODY not in request.scope:
        raise Invalid("missing_body", "say which dead letters; every one is the body {}")
    asked = read(request, ReplayRequest)
    wanted = asked.filter or ReplayFilter()
    filter = LetterFilter(
        state=None if wanted.state is None else State(wanted.state),
        channel=wanted.channel,
        category=wanted.category,
        provider=wanted.provider,
        reason=wanted.reason,
        user_id=wanted.user_id,
        since=_instant(wanted.since, "$.filter.since"),
        until=_instant(wanted.until, "$.filter.until"),
    )
    body = msgspec.json.encode(request.scope[BODY])
    replay, known = await call.services.letters.replay(
        call.key, filter, int(asked.per_second or _PER_SECOND), idempotency_key, body
    )
    response = answer(replay_view(replay), 202)
    response.headers["Location"] = f"/v1/replays/{to_text(REPLAY_PREFIX, replay.id)}"
    if known:
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
    """Who had what sent again, newest first; the replays of single letters too."""
    before = call.position(_LISTING, cursor, partial(from_text, REPLAY_PREFIX))
    found, following = await call.services.letters.replays(call.tenant, before, call.page(limit))
    reached = None if following is None else to_text(REPLAY_PREFIX, following)
    return answer(ReplayPage([replay_view(replay) for replay in found], call.cursor(_LISTING, reached)))


@router.get(
    "/{replay_id}",
    response_class=Response,
    responses=answered(ReplayView, "The replay"),
    **operation(Scope.READ, "Read a replay", before=["replay"]),
)
async def get_replay(call: Caller, replay_id: ReplayId) -> Response:
    """How far it is."""
    return answer(replay_view(await call.services.letters.known(call.tenant, from_text(REPLAY_PREFIX, replay_id))))


@router.post(
    "/{replay_id}/cancel",
    response_class=Response,
    responses=answered(ReplayView, "It stops"),
    **operation(Scope.MANAGE, "Cancel a replay", before=["slow_replay"]),
)
async def cancel_replay(call: Caller, replay_id: ReplayId) -> Response:
    """Stop within some seconds. What was replayed already is on its way. 409 when the replay has ended."""
    return answer(replay_view(await call.services.letters.cancel(call.tenant, from_text(REPLAY_PREFIX, replay_id))))
