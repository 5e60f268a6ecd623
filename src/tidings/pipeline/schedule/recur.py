"""recur: send recurrences: make a notification of each occurrence that is due.

As everywhere in the schedule, rows that are due are leased, their items are put, then the rows are settled. Settling a
recurrence moves it to its next occurrence. After a crash in between, the same notification is put again, marked as
repeated.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import tzinfo
from typing import TypeAlias
from uuid import UUID

import structlog
from msgspec import Struct
from msgspec.structs import replace

from tidings.model.errors import Invalid, Unavailable
from tidings.model.ids import to_text
from tidings.model.notification import Notification
from tidings.model.recurrence import OF_THE_USER, RECURRENCE_PREFIX, Progress, Recurrence
from tidings.model.texts import fit
from tidings.pipeline.compose import requests
from tidings.pipeline.compose.composer import Composer, queued
from tidings.pipeline.runtime.turns import in_turn
from tidings.pipeline.schedule.putting import put_each
from tidings.pipeline.schedule.waking import Lease, keep_moving
from tidings.policy.presence import is_meant
from tidings.policy.recurring import Advance, occurrence_id, step
from tidings.policy.routing import send_zone
from tidings.policy.shares import ShareRules, Shares
from tidings.policy.wall_clock import zone
from tidings.ports.clock import Clock
from tidings.ports.meter import Meter
from tidings.ports.queue import Queue
from tidings.ports.recurrences import DueRecurrence, Moved, Recurrences
from tidings.ports.users import NO_USER, Person, UserKey, Users

STAGE = "recur"
BATCH = 200
LEASE_S = 30.0
MOST_COMPUTING_MS = 20
"""Milliseconds of computing after which the notifications are put, and other work gets the event loop."""
MOST_PROBLEM = 1_000
"""Characters of a stored problem, at most."""
Asked: TypeAlias = requests.NotificationRequest | Invalid
_log = structlog.get_logger("tidings.recur")


class _Step(Struct, frozen=True):
    """A due recurrence moves on to `then` and sends `fired`. `failed`: an error, and no notification could be made."""

    row: DueRecurrence
    then: Progress
    fired: Notification | None = None
    failed: bool = False


class Recur:
    """Sends the occurrences that are due, with the templates that are published at that time.

    `count` gets the tenant and the ids of notifications that are durable now, each id at most once. `revisit` gets
    those that may have been counted before.
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
        shares: Shares | None = None,
        revisit: Callable[[str, Sequence[UUID]], None] = lambda _tenant, _ids: None,
    ) -> None:
        self._store = store
        self._users = users
        self._compose = composer.compose
        self._queue = queue
        self._shares = shares or Shares(ShareRules())
        self._clock = clock
        self._meter = meter
        self._count = count
        self._revisit = revisit

    async def run(self, stopping: asyncio.Event) -> None:
        """Work until `stopping` is set."""
        await keep_moving(STAGE, self.once, self._store.next_due, BATCH, self._clock, self._meter, stopping)

    async def once(self) -> int:
        """Move the recurrences that are due now; their number."""
        lease = Lease(LEASE_S, self._clock)
        due = await self._store.due(self._clock.now(), BATCH, LEASE_S)
        if not due:
            return 0
        asked = [_asked(row.recurrence) for row in due]
        people = await self._people(due, asked)
        rest = in_turn(list(zip(due, asked, strict=True)), lambda one: one[0].recurrence.tenant)
        while rest:
            rest = rest[await self._move_first(rest, people, lease) :]
        self._meter.batch(STAGE, "", len(due), 0.0)
        return len(due)

    async def _move_first(
        self, rows: Sequence[tuple[DueRecurrence, Asked]], people: Mapping[UserKey, Person], lease: Lease
    ) -> int:
        """Move the first rows, as many as can be computed in `MOST_COMPUTING_MS` but at least one; their number.

        So a rule that is expensive to compute delays only the few recurrences that are put with it.
        """
        steps: list[_Step] = []
        began = self._clock.elapsed()
        for row, request in rows:
            steps.append(await self._step(row, request, people))
            if self._clock.elapsed() - began >= MOST_COMPUTING_MS:
                break
        await asyncio.sleep(0)
        # After a long standstill leave the rows to other processes. They will mark the items as repeated.
        lease.check()
        refused = await self._put([one for one in steps if one.fired is not None], lease)
        moved: list[Moved] = []
        for one in steps:
            recurrence, why = one.row.recurrence, refused.get(one.row.recurrence.id)
            if (one.failed or why is not None) and not one.row.repeated:
                continue  # leave it to its lease: it is due once more, and may succeed then
            then = one.then if why is None else _skipping(recurrence, one.then, why)
            self._report_skipped(recurrence, then)
            moved.append(Moved(recurrence.id, recurrence.progress, then))
            if one.fired is not None and why is None:
                # A repeated one may have been counted. Counting too few is safe; counting too many raises an alarm.
                (self._revisit if one.row.repeated else self._count)(one.fired.tenant, (one.fired.id,))
        await self._settle(moved)
        return len(steps)

    async def _step(self, row: DueRecurrence, request: Asked, people: Mapping[UserKey, Person]) -> _Step:
        """The step of one recurrence. It ends if even its next occurrence cannot be computed; the others go on."""
        try:
            return await self._step_of(row, request, people)
        except Unavailable:
            raise
        except Exception as error:
            _log.exception("a recurrence failed", recurrence=to_text(RECURRENCE_PREFIX, row.recurrence.id))
            return _Step(row, _ended(row.recurrence, repr(error)))

    async def _put(self, steps: Sequence[_Step], lease: Lease) -> dict[UUID, str]:
        """Put the notifications. Returns, by id, the recurrences whose notification the queue refused, and why."""
        fired = [queued(one.fired, repeated=one.row.repeated) for one in steps if one.fired is not None]
        if not fired:
            return {}
        whys = await put_each(fired, self._queue, self._shares, self._clock, lease)
        return {one.row.recurrence.id: why for one, why in zip(steps, whys, strict=True) if why is not None}

    async def _settle(self, moved: Sequence[Moved]) -> None:
        """Settle the recurrences. One that cannot be settled is left to its lease, and stops no other."""
        try:
            await self._store.settle(moved)
        except Unavailable:
            raise
        except Exception:
            _log.exception("recurrences were refused; going on one by one", count=len(moved))
        else:
            return
        for move in moved:
            try:
                await self._store.settle([move])
            except Unavailable:
                raise
            except Exception:
                self._meter.failure(STAGE, "", "error")
                _log.exception("a recurrence cannot move", recurrence=to_text(RECURRENCE_PREFIX, move.id))

    async def _step_of(self, row: DueRecurrence, request: Asked, people: Mapping[UserKey, Person]) -> _Step:
        """The step of a recurrence that is due: its notification, and its next occurrence."""
        recurrence, now = row.recurrence, self._clock.now()
        try:
            if isinstance(request, Invalid):
                raise request
            _check_meant(recurrence, request, people)
            next_step = step(recurrence, _zone(recurrence, request, people), now, repeated=row.repeated)
        except Invalid as problem:  # the id belongs to another user now, or this version refuses the request
            return _Step(row, _ended(recurrence, _as_problem(problem)))
        if isinstance(next_step, Advance):
            return _Step(row, next_step.then)
        try:
            notification = await self._compose(
                recurrence.tenant,
                request,
                len(recurrence.request),
                now,
                identify=lambda _: occurrence_id(recurrence),
                known=_known(recurrence.tenant, people),
            )
        except Invalid as problem:
            return _Step(row, _skipping(recurrence, next_step.then, _as_problem(problem)))
        except Unavailable:
            raise
        except Exception as error:
            _log.exception("an occurrence failed", recurrence=to_text(RECURRENCE_PREFIX, recurrence.id))
            return _Step(row, _skipping(recurrence, next_step.then, repr(error)), failed=True)
        return _Step(row, next_step.then, notification)

    async def _people(self, due: Sequence[DueRecurrence], asked: Sequence[Asked]) -> Mapping[UserKey, Person]:
        """The users to whom the requests are addressed."""
        keys = {
            (row.recurrence.tenant, request.to.user_id)
            for row, request in zip(due, asked, strict=True)
            if not isinstance(request, Invalid) and request.to.user_id is not None
        }
        return await self._users.people(keys) if keys else {}

    def _report_skipped(self, recurrence: Recurrence, then: Progress) -> None:
        """Count and log the occurrences that were skipped."""
        skipped = then.skipped - recurrence.progress.skipped
        if skipped or (then.problem and then.due is None):
            self._meter.failure(STAGE, "", "skipped")
            id = to_text(RECURRENCE_PREFIX, recurrence.id)
            why = then.problem or "later ones had come due as well"
            _log.warning("occurrences were skipped", recurrence=id, tenant=recurrence.tenant, count=skipped, why=why)


def _asked(recurrence: Recurrence) -> Asked:
    try:
        return requests.decode_stored(recurrence.request)
    except Invalid as problem:
        return problem


def _zone(recurrence: Recurrence, request: requests.NotificationRequest, people: Mapping[UserKey, Person]) -> tzinfo:
    """The timezone in which the recurrence counts now."""
    if recurrence.timezone != OF_THE_USER:
        return zone(recurrence.timezone)
    person = people.get((recurrence.tenant, request.to.user_id or ""), NO_USER)
    return zone(send_zone(requests.recipient(request.to), person.profile))


def _check_meant(
    recurrence: Recurrence, request: requests.NotificationRequest, people: Mapping[UserKey, Person]
) -> None:
    """Raises Invalid when the id belongs to another user than the one for whom the recurrence was created."""
    person = people.get((recurrence.tenant, request.to.user_id or ""), NO_USER)
    if not is_meant(recurrence.incarnation, person.incarnation):
        raise Invalid("user_deleted", "its user was deleted, and the id belongs to another one now", "$.to.user_id")


def _known(tenant: str, people: Mapping[UserKey, Person]) -> Mapping[str, int]:
    """The incarnations of the tenant's people."""
    return {
        user_id: person.incarnation
        for (owner, user_id), person in people.items()
        if owner == tenant and person.incarnation is not None
    }


def _as_problem(problem: Invalid) -> str:
    return fit(f"{problem.code}: {problem.detail}", MOST_PROBLEM)


def _skipping(recurrence: Recurrence, then: Progress, problem: str) -> Progress:
    """The progress that skips the present occurrence because of `problem`. The next one is tried all the same."""
    skipped = recurrence.progress.skipped + 1
    return replace(then, fired_at=recurrence.progress.fired_at, skipped=skipped, problem=fit(problem, MOST_PROBLEM))


def _ended(recurrence: Recurrence, problem: str) -> Progress:
    """The progress of a recurrence that ends because of `problem`."""
    return replace(recurrence.progress, local=None, due=None, problem=fit(problem, MOST_PROBLEM))
