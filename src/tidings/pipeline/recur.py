"""recur: the part of the schedule that sends recurrences; an occurrence that is due becomes a notification.

As everywhere in the schedule, what is due is leased, put, then settled: settling a recurrence moves it to its next
occurrence. A crash in between puts the occurrence again, as the same notification and marked as repeated.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import tzinfo
from typing import TypeAlias
from uuid import UUID

import structlog
from msgspec.structs import replace

from tidings.model.errors import Invalid
from tidings.model.ids import to_text
from tidings.model.notification import Notification
from tidings.model.recurrence import OF_THE_USER, RECURRENCE_PREFIX, Progress, Recurrence
from tidings.pipeline import requests
from tidings.pipeline.compose import Composer, queued
from tidings.pipeline.waking import keep_moving
from tidings.policy.presence import is_meant
from tidings.policy.recurring import Move, occurrence_id, step
from tidings.policy.routing import send_zone
from tidings.policy.wall_clock import zone
from tidings.ports.clock import Clock
from tidings.ports.meter import Meter
from tidings.ports.queue import Queue
from tidings.ports.recurrences import DueRecurrence, Moved, Recurrences
from tidings.ports.store import Person, UserKey, Users

STAGE = "recur"
BATCH = 200
LEASE = 30.0
NOBODY = Person()
Asked: TypeAlias = requests.NotificationRequest | Invalid
_log = structlog.get_logger("tidings.recur")


class Recur:
    """Sends what is due of recurrences. Templates are those that are published when an occurrence is sent.

    `count` is told which ids of which tenant are durable, each at most once; `revisit` which may have been counted
    before.
    """

    def __init__(
        self,
        store: Recurrences,
        users: Users,
        composer: Composer,
        queue: Queue,
        clock: Clock,
        meter: Meter,
        count: Callable[[str, Sequence[UUID]], None],
        revisit: Callable[[str, Sequence[UUID]], None] = lambda _tenant, _ids: None,
    ) -> None:
        self._store = store
        self._users = users
        self._compose = composer.compose
        self._queue = queue
        self._clock = clock
        self._meter = meter
        self._count = count
        self._revisit = revisit

    async def run(self, stopping: asyncio.Event) -> None:
        """Work until `stopping` is set."""
        await keep_moving(STAGE, self.once, self._store.next_due, BATCH, self._clock, self._meter, stopping)

    async def once(self) -> int:
        """Move what is due now; the number of recurrences."""
        due = await self._store.due(self._clock.now(), BATCH, LEASE)
        if not due:
            return 0
        asked = [_asked(row.recurrence) for row in due]
        people = await self._people(due, asked)
        fired: list[tuple[Notification, bool]] = []
        moved: list[Moved] = []
        for row, request in zip(due, asked, strict=True):
            then = await self._one(row, request, people, fired)
            self._tell(row.recurrence, then)
            moved.append(Moved(row.recurrence.id, row.recurrence.progress, then))
        if fired:
            await self._queue.put([queued(notification, repeated=again) for notification, again in fired])
        for notification, again in fired:
            # What comes again may have been counted before: too few is safe, too many is an alarm.
            (self._revisit if again else self._count)(notification.tenant, (notification.id,))
        await self._store.settle(moved)
        self._meter.batch(STAGE, "", len(due), 0.0)
        return len(due)

    async def _one(
        self,
        row: DueRecurrence,
        request: Asked,
        people: Mapping[UserKey, Person],
        fired: list[tuple[Notification, bool]],
    ) -> Progress:
        """How far a recurrence that is due is now. What it sends goes to `fired`, with whether it may be a copy."""
        recurrence, now = row.recurrence, self._clock.now()
        try:
            if isinstance(request, Invalid):
                raise request
            _check_meant(recurrence, request, people)
            told = step(recurrence, _zone(recurrence, request, people), now, again=row.again)
        except Invalid as problem:  # its user is another one, or an earlier version took what this one does not
            return replace(recurrence.progress, local=None, due=None, problem=_said(problem))
        if isinstance(told, Move):
            return told.then
        size = len(recurrence.request)
        try:
            notification = await self._compose(
                recurrence.tenant,
                request,
                size,
                now,
                identify=lambda _: occurrence_id(recurrence),
                known=_known(recurrence.tenant, people),
            )
        except Invalid as problem:
            skipped = told.then.skipped + 1
            return replace(told.then, fired_at=recurrence.progress.fired_at, skipped=skipped, problem=_said(problem))
        fired.append((notification, row.again))
        return told.then

    async def _people(self, due: Sequence[DueRecurrence], asked: Sequence[Asked]) -> Mapping[UserKey, Person]:
        """The users who are asked for."""
        keys = {
            (row.recurrence.tenant, request.to.user_id)
            for row, request in zip(due, asked, strict=True)
            if not isinstance(request, Invalid) and request.to.user_id is not None
        }
        return await self._users.people(keys) if keys else {}

    def _tell(self, recurrence: Recurrence, then: Progress) -> None:
        """Count and log what was not sent."""
        skipped = then.skipped - recurrence.progress.skipped
        if skipped or (then.problem and then.due is None):
            self._meter.failure(STAGE, "", "skipped")
            id = to_text(RECURRENCE_PREFIX, recurrence.id)
            why = then.problem or "later ones had come due as well"
            _log.warning("occurrences were skipped", recurrence=id, tenant=recurrence.tenant, count=skipped, why=why)


def _asked(recurrence: Recurrence) -> Asked:
    try:
        return requests.decode_one(recurrence.request)
    except Invalid as problem:
        return problem


def _zone(recurrence: Recurrence, request: requests.NotificationRequest, people: Mapping[UserKey, Person]) -> tzinfo:
    """The timezone in which the recurrence is meant now."""
    if recurrence.timezone != OF_THE_USER:
        return zone(recurrence.timezone)
    person = people.get((recurrence.tenant, request.to.user_id or ""), NOBODY)
    return zone(send_zone(requests.recipient(request.to), person.profile))


def _check_meant(
    recurrence: Recurrence, request: requests.NotificationRequest, people: Mapping[UserKey, Person]
) -> None:
    """Raises Invalid when the id belongs to another user than the one for whom the recurrence was created."""
    person = people.get((recurrence.tenant, request.to.user_id or ""), NOBODY)
    if not is_meant(recurrence.incarnation, person.incarnation):
        raise Invalid("user_deleted", "its user was deleted, and the id belongs to another one now", "$.to.user_id")


def _known(tenant: str, people: Mapping[UserKey, Person]) -> Mapping[str, int]:
    """The incarnations of the tenant's people."""
    return {
        user_id: person.incarnation
        for (owner, user_id), person in people.items()
        if owner == tenant and person.incarnation is not None
    }


def _said(problem: Invalid) -> str:
    return f"{problem.code}: {problem.detail}"
