"""Recurrences for the API: checked like requests that `accept` gets, then written in plain transactions."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, tzinfo
from typing import Annotated, TypeAlias, TypeVar
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType
from msgspec.structs import replace

from tidings.model.errors import Conflict, Invalid, NotFound
from tidings.model.ids import new_id, stable_bucket, to_text
from tidings.model.recurrence import GRACE_S, OF_THE_USER, RECURRENCE_PREFIX, Recurrence
from tidings.pipeline.compose import requests
from tidings.pipeline.compose.composer import Composer
from tidings.policy import addresses, recurrence_rule, recurring, wall_clock
from tidings.policy.presence import is_meant
from tidings.policy.recurring import Occurrence
from tidings.policy.routing import send_zone
from tidings.ports.clock import Clock
from tidings.ports.recurrences import Recurrences as Store
from tidings.ports.users import NO_USER, Users

LARGEST_BYTES = requests.LARGEST_BYTES + 20_480
MOST_GRACE_S = 7 * 24 * 3600
TRIES = 5
S = TypeVar("S")
Grace: TypeAlias = Annotated[float, Meta(ge=0, le=MOST_GRACE_S, multiple_of=1, extra_json_schema={"type": "integer"})]
"""Whole seconds. The type is float because some clients write 2.0, which is the same number in JSON."""


class RecurrenceRequest(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """A notification that is sent again and again.

    `rrule` is a recurrence rule of RFC 5545 with at most one occurrence a minute. It counts from `start`, a local
    time in `timezone`: an IANA name, or `user` for the user's own timezone at the time. `request` is the body of a
    notification without its times. An occurrence that is missed by more than `grace_seconds` is skipped. `exdates` are
    occurrences to leave out: local times, `2026-12-24T09:00`, or whole days, `2026-12-24`.
    """

    rrule: str
    start: str
    request: msgspec.Raw
    timezone: str | None = OF_THE_USER
    name: str | None = ""
    grace_seconds: Grace | None = GRACE_S
    exdates: list[str] | None = []


class RecurrenceChange(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """The fields of a recurrence to change. A field that is left out or null stays. Its recipient cannot change."""

    rrule: str | UnsetType | None = UNSET
    start: str | UnsetType | None = UNSET
    request: msgspec.Raw | UnsetType = UNSET
    timezone: str | UnsetType | None = UNSET
    name: str | UnsetType | None = UNSET
    grace_seconds: Grace | UnsetType | None = UNSET
    exdates: list[str] | UnsetType | None = UNSET


_request_decoder = msgspec.json.Decoder(RecurrenceRequest)
_change_decoder = msgspec.json.Decoder(RecurrenceChange)
_Making: TypeAlias = Callable[[Recurrence], Awaitable[tuple[Recurrence, bool]]]
"""Makes the changed recurrence, and says whether its next occurrence changes."""


class Recurrences:
    """Creates, changes, pauses and resumes recurrences. Every method raises Unavailable if the store does not answer.

    `randomness` gives as many random bits as it is asked for.
    """

    def __init__(
        self, store: Store, users: Users, composer: Composer, clock: Clock, randomness: Callable[[int], int]
    ) -> None:
        self._store = store
        self._users = users
        self._composer = composer
        self._clock = clock
        self._randomness = randomness

    async def create(self, tenant: str, body: bytes) -> Recurrence:
        """Create a recurrence. Raises Invalid."""
        request, now = _decoded(_request_decoder, body), self._clock.now()
        key, incarnation = await self._check_request(tenant, bytes(request.request), now)
        recurrence = Recurrence(
            id=new_id(now, stable_bucket(tenant, key), self._randomness(54)),
            tenant=tenant,
            name=request.name or "",
            rrule=_text(request.rrule, request.exdates or UNSET, ()),
            start=request.start,
            timezone=OF_THE_USER if request.timezone is None else request.timezone,
            request=bytes(request.request),
            grace=GRACE_S if request.grace_seconds is None else int(request.grace_seconds),
            created_at=now,
            updated_at=now,
            incarnation=incarnation,
        )
        recurrence = _checked(recurrence, now)
        recurrence = await self._placed(recurrence, now)
        if recurrence.progress.due is None:
            raise Invalid("never_occurs", "by this rule no time lies in the future", "$.rrule")
        await self._store.add(recurrence)
        return recurrence

    async def get(self, tenant: str, id: UUID) -> Recurrence:
        """One recurrence. Raises NotFound."""
        found = await self._store.get(tenant, id)
        if found is None:
            raise NotFound("recurrence", to_text(RECURRENCE_PREFIX, id))
        return found

    async def list(self, tenant: str, before: UUID | None, limit: int) -> Sequence[Recurrence]:
        """The tenant's recurrences that are older than `before`, newest first."""
        return await self._store.list(tenant, before, limit)

    async def change(self, tenant: str, id: UUID, body: bytes) -> Recurrence:
        """Change a recurrence as the body says, from its next occurrence on. Raises Invalid, NotFound, Conflict."""
        wanted = requests.without_nulls(_decoded(_change_decoder, body))
        if wanted == RecurrenceChange():
            raise Invalid("nothing_to_change", f"name what to change: {', '.join(wanted.__struct_fields__)}")

        async def changed(recurrence: Recurrence) -> tuple[Recurrence, bool]:
            now = self._clock.now()
            new = _checked(_applied(recurrence, wanted), now)
            if wanted.request is not UNSET:
                key, incarnation = await self._check_request(tenant, new.request, now)
                if key != _key(recurrence) or not is_meant(recurrence.incarnation, incarnation):
                    raise Invalid(
                        "other_recipient",
                        "a recurrence stays one person's; delete it, and create another for somebody else",
                        "$.request.to",
                    )
                new = replace(new, incarnation=incarnation)
            moving = (new.rrule, new.start, new.timezone) != (recurrence.rrule, recurrence.start, recurrence.timezone)
            if moving and not recurrence.paused:
                new = await self._placed(new, now)
            return new, moving

        return await self._changed(tenant, id, changed)

    async def pause(self, tenant: str, id: UUID) -> Recurrence:
        """Send no occurrence until `resume`. Idempotent. Raises NotFound, Conflict."""

        async def paused(recurrence: Recurrence) -> tuple[Recurrence, bool]:
            return replace(recurrence, paused=True, progress=replace(recurrence.progress, local=None, due=None)), True

        return await self._changed(tenant, id, paused)

    async def resume(self, tenant: str, id: UUID) -> Recurrence:
        """Go on with the next occurrence from now on. Idempotent. Raises NotFound, Conflict."""

        async def resumed(recurrence: Recurrence) -> tuple[Recurrence, bool]:
            if not recurrence.paused:
                return recurrence, False
            return await self._placed(replace(recurrence, paused=False), self._clock.now()), True

        return await self._changed(tenant, id, resumed)

    async def delete(self, tenant: str, id: UUID) -> None:
        """Delete a recurrence, but not the notifications that it has sent. Raises NotFound."""
        if not await self._store.delete(tenant, id):
            raise NotFound("recurrence", to_text(RECURRENCE_PREFIX, id))

    async def upcoming(self, recurrence: Recurrence, count: int) -> Sequence[Occurrence]:
        """The next `count` occurrences, by the timezone of now: the user's may change."""
        return recurring.upcoming(recurrence, await self._zone(recurrence), count)

    async def _changed(self, tenant: str, id: UUID, making: _Making) -> Recurrence:
        for _ in range(TRIES):
            recurrence = await self.get(tenant, id)
            new, moving = await making(recurrence)
            if new == recurrence:
                return recurrence
            new = replace(new, revision=recurrence.revision + 1, updated_at=self._clock.now())
            if await self._store.replace(new, moved_from=recurrence.progress if moving else None):
                return await self.get(tenant, id)
        raise Conflict("change_in_flight", "others are changing this recurrence at the same time; try again")

    async def _placed(self, recurrence: Recurrence, now: int) -> Recurrence:
        """The recurrence with its first occurrence after `now` as the next one."""
        start = datetime.fromisoformat(recurrence.start)
        found = recurring.first(recurrence.rrule, start, await self._zone(recurrence), now)
        local, due = (None, None) if found is None else (found.local.isoformat(), found.due)
        return replace(recurrence, progress=replace(recurrence.progress, local=local, due=due, problem=""))

    async def _zone(self, recurrence: Recurrence) -> tzinfo:
        if recurrence.timezone != OF_THE_USER:
            return wall_clock.zone(recurrence.timezone)
        to = requests.recipient(requests.decode_stored(recurrence.request).to)
        key = (recurrence.tenant, to.user_id or "")
        people = await self._users.people([key] if to.user_id is not None else [])
        return wall_clock.zone(send_zone(to, people.get(key, NO_USER).profile))

    async def _check_request(self, tenant: str, raw: bytes, now: int) -> tuple[str, int | None]:
        """The recipient's key and incarnation. Raises Invalid unless `accept` would accept the request."""
        try:
            request = requests.decode_one(raw)
            _check_timeless(request)
            known = await self._composer.known(tenant, [request])
            composed = await self._composer.compose(tenant, request, len(raw), now, known=known)
            return composed.to.key, composed.incarnation
        except Invalid as problem:
            path = "$.request" + problem.path.removeprefix("$")
            raise Invalid(problem.code, problem.detail, path) from problem


def _decoded(decoder: msgspec.json.Decoder[S], body: bytes) -> S:
    if len(body) > LARGEST_BYTES:
        raise Invalid("too_large", f"a recurrence may have at most {LARGEST_BYTES} bytes; this has {len(body)}")
    try:
        return decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise requests.explain(error) from error


def _check_timeless(request: requests.NotificationRequest) -> None:
    for name in ("send_at", "send_at_local", "expires_at"):
        if getattr(request, name) is not None:
            raise Invalid("not_in_recurrence", "the times of a recurrence come from its rule", f"$.{name}")


def _applied(recurrence: Recurrence, wanted: RecurrenceChange) -> Recurrence:
    given = {name: getattr(wanted, name) for name in wanted.__struct_fields__ if getattr(wanted, name) is not UNSET}
    exdates = given.pop("exdates", UNSET)
    if "rrule" in given or exdates is not UNSET:
        rule, left_out = recurrence_rule.written(recurrence.rrule)
        given["rrule"] = _text(given.get("rrule", rule), exdates, left_out)
    if "grace_seconds" in given:
        given["grace"] = int(given.pop("grace_seconds"))
    if "request" in given:
        given["request"] = bytes(given["request"])
    return replace(recurrence, **given)


def _text(rule: str, exdates: Sequence[str] | UnsetType, before: Sequence[str]) -> str:
    """The rule with the dates to leave out: `exdates`, else the rule's `EXDATE` lines, else those of `before`."""
    line, own = recurrence_rule.written(rule)
    if own and exdates is not UNSET:
        raise Invalid("ambiguous_exdates", "give EXDATE lines in the rule or exdates, not both", "$.exdates")
    return recurrence_rule.joined(line, own or before if exdates is UNSET else exdates)


def _checked(recurrence: Recurrence, now: int) -> Recurrence:
    """The recurrence with its timezone as the timezone database spells it, and its start in full. Raises Invalid."""
    if recurrence.name:
        requests.plain(recurrence.name, "$.name")
    timezone = recurrence.timezone
    if timezone != OF_THE_USER:
        timezone = addresses.timezone(timezone, "$.timezone")
    why = "write the start on the wall clock: 2026-12-24T09:00"
    try:
        start = wall_clock.parse(recurrence.start)
    except ValueError as error:
        why = why if str(error) == wall_clock.NEITHER else str(error)
        start = None
    if not isinstance(start, datetime):
        raise Invalid("invalid_local_time", why, "$.start")
    if wall_clock.instant_of(start, wall_clock.zone(None)) > now + requests.FARTHEST_MS:
        raise Invalid("too_far", "start is more than a year ahead", "$.start")
    recurring.check(recurrence.rrule, start)
    return replace(recurrence, timezone=timezone, start=start.isoformat())


def _key(recurrence: Recurrence) -> str:
    return requests.recipient(requests.decode_stored(recurrence.request).to).key
