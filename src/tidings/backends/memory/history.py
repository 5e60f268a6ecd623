"""History and cancellations in memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from uuid import UUID

import msgspec

from tidings.backends.memory.schedule import MemorySchedule
from tidings.backends.memory.users import MemoryUsers
from tidings.model.accounting import MINUTE_MS, StateCount
from tidings.model.days import day_of
from tidings.model.history import Event, HistoryFilter, NotificationRecord, Tally
from tidings.model.ids import instant_of, notification_of, slot_of
from tidings.model.notification import Notification
from tidings.model.outcome import Outcome
from tidings.model.sending import Handed
from tidings.model.user import Suppression
from tidings.model.vocabulary import Channel, State
from tidings.policy.days import Place
from tidings.policy.routing import channel_of
from tidings.policy.transitions import (
    HANDED,
    IN_FLIGHT,
    PRECEDENCE,
    RESTING,
    TRIED_AGAIN,
    goes_on_with,
    notification_state,
    rank,
)
from tidings.ports.history import Page
from tidings.ports.schedule import Waiting

_Fact = tuple[int, State, int]
"""(attempt, state, step), which tells the events of one id apart."""


class MemoryHistory:
    """See History."""

    def __init__(self, schedule: MemorySchedule, users: MemoryUsers) -> None:
        self._schedule = schedule
        self._users = users
        self._notifications: dict[UUID, Notification] = {}
        self._events: dict[UUID, dict[UUID, dict[_Fact, Event]]] = {}
        self.archived: set[int] = set()
        """The archived days. Only their carried notifications take events."""
        self.changes = 0
        """The number of events written."""

    async def append(self, outcomes: Sequence[Outcome]) -> Mapping[str, int]:
        """See History."""
        refused: Counter[str] = Counter()
        suppressions: list[Suppression] = []
        for outcome in outcomes:
            notification_id = notification_of(outcome.id)
            if day_of(outcome.id) in self.archived and notification_id not in self._notifications:
                refused[Place.ARCHIVED.value] += 1
                continue
            if outcome.notification is not None:
                self._notifications.setdefault(notification_id, outcome.notification)
            facts = self._events.setdefault(notification_id, {}).setdefault(outcome.id, {})
            fact = (outcome.attempt, outcome.state, outcome.step)
            if fact in facts:
                continue
            facts[fact] = _event(outcome)
            self.changes += 1
            if outcome.wait is not None:
                self._schedule.add(notification_id, outcome.wait)
            if outcome.suppress and outcome.address is not None:
                suppressions.append(Suppression(outcome.tenant, outcome.address, outcome.reason, outcome.at))
        for added in self._users.add_suppressions(suppressions):
            if added.address.channel is Channel.PUSH:
                self._users.forget_devices(added.tenant, {added.address.value}, added.at)
        return refused

    async def get(self, tenant: str, notification_id: UUID) -> NotificationRecord | None:
        """See History."""
        notification = self._notifications.get(notification_id)
        if notification is None or notification.tenant != tenant:
            return None
        return self._record(notification)

    async def find(self, tenant: str, filter: HistoryFilter, before: UUID | None, limit: int) -> Page:
        """See History."""
        found: list[NotificationRecord] = []
        for id in sorted(self._notifications, reverse=True):
            notification = self._notifications[id]
            if notification.tenant != tenant or (before is not None and id >= before):
                continue
            if not self._matches(notification, filter):
                continue
            if len(found) == limit:
                return Page(tuple(found), found[-1].notification.id)
            found.append(self._record(notification))
        return Page(tuple(found), None)

    def records(self, tenant: str) -> Iterator[NotificationRecord]:
        """The records of the tenant, newest first."""
        for id in sorted(self._notifications, reverse=True):
            if self._notifications[id].tenant == tenant:
                yield self._record(self._notifications[id])

    def days(self) -> set[int]:
        """The days that have notifications."""
        return {day_of(id) for id in self._notifications}

    def of_day(self, day: int) -> list[NotificationRecord]:
        """The records of a day."""
        return [self._record(one) for id, one in self._notifications.items() if day_of(id) == day]

    def forget(self, notification_id: UUID) -> None:
        """Remove an archived notification with its events."""
        self._notifications.pop(notification_id, None)
        self._events.pop(notification_id, None)

    async def attempted(self, attempts: Sequence[tuple[UUID, int]]) -> set[tuple[UUID, int]]:
        """See History."""
        return {
            (id, attempt)
            for id, attempt in attempts
            for event in self._events.get(notification_of(id), {}).get(id, {}).values()
            if event.attempt == attempt and _ends_an_attempt(event)
        }

    async def waited(self, attempts: Sequence[tuple[UUID, int]]) -> Mapping[tuple[UUID, int], int]:
        """See History."""
        steps: dict[tuple[UUID, int], int] = {}
        for id, attempt in attempts:
            for event in self._events.get(notification_of(id), {}).get(id, {}).values():
                step = goes_on_with(event.state, event.reason, event.step)
                if event.attempt == attempt and step is not None:
                    steps[id, attempt] = max(step, steps.get((id, attempt), 0))
        return steps

    async def arrived(self, delivery_ids: Collection[UUID]) -> set[UUID]:
        """See History."""
        return {
            id
            for id in delivery_ids
            if (facts := self._events.get(notification_of(id), {}).get(id))
            and _furthest(facts.values()).state is State.DELIVERED
        }

    async def handed(
        self, provider: str, references: Collection[str], addresses: Collection[str], since: int, until: int
    ) -> Sequence[Handed]:
        """See History."""
        return [
            Handed(event.id, notification.tenant, event.attempt, event.reference, event.address)
            for notification in self._notifications.values()
            if since <= instant_of(notification.id) < until
            for facts in self._events.get(notification.id, {}).values()
            for event in facts.values()
            if event.provider == provider
            and event.state in HANDED
            and ((event.reference and event.reference in references) or event.address.lower() in addresses)
        ]

    async def tally(self, tenant: str, since: int | None = None, until: int | None = None) -> Sequence[Tally]:
        """See History."""
        return self.tally_of(
            {
                id
                for id, one in self._notifications.items()
                if one.tenant == tenant and instant_of(id) >= (since or 0) and (until is None or instant_of(id) < until)
            }
        )

    def tally_of(self, ids: Collection[UUID]) -> Sequence[Tally]:
        """These notifications and their deliveries, counted by state and reason."""
        counts: Counter[tuple[str | None, State, str]] = Counter()
        for notification in [self._notifications[id] for id in ids]:
            deliveries = [
                (id, _furthest(facts.values())) for id, facts in self._facts(notification.id).items() if slot_of(id)
            ]
            for id, event in deliveries:
                counts[channel_of(id).value, event.state, event.reason] += 1
            own = self._facts(notification.id).get(notification.id)
            reason = _furthest(own.values()).reason if own and not deliveries else ""
            counts[None, self._state(notification), reason] += 1
        ordered = sorted(counts.items(), key=lambda entry: (entry[0][0] or "", entry[0][1], entry[0][2]))
        return [Tally(channel, state, reason, count) for (channel, state, reason), count in ordered]

    async def states(
        self, since: int, until: int, tenant: str | None = None, *, in_flight: bool = False
    ) -> Sequence[StateCount]:
        """See History."""
        found: dict[tuple[int, str, State], list[UUID]] = {}
        for notification in self._notifications.values():
            minute = instant_of(notification.id) // MINUTE_MS
            if since <= minute < until and tenant in {None, notification.tenant}:
                found.setdefault((minute, notification.tenant, self._state(notification)), []).append(notification.id)
        ordered = sorted(found.items(), key=lambda entry: (entry[0][:2], PRECEDENCE.index(entry[0][2])))
        return [
            StateCount(owner, minute, state, len(ids), tuple(ids) if in_flight and state in IN_FLIGHT else ())
            for (minute, owner, state), ids in ordered
        ]

    async def get_many(self, notification_ids: Collection[UUID]) -> Sequence[NotificationRecord]:
        """See History."""
        return [self._record(self._notifications[id]) for id in notification_ids if id in self._notifications]

    async def maintain(self, now: int) -> int:
        """See History. Nothing to prepare in memory."""
        return 0

    def amend(self, notification: Notification) -> None:
        """Replace the recorded notification."""
        self._notifications[notification.id] = notification

    def _facts(self, notification_id: UUID) -> dict[UUID, dict[_Fact, Event]]:
        return self._events.get(notification_id, {})

    def _record(self, notification: Notification) -> NotificationRecord:
        events = [event for facts in self._facts(notification.id).values() for event in facts.values()]
        events.sort(key=lambda event: (event.at, event.attempt, event.step, rank(event.state, event.attempt), event.id))
        return NotificationRecord(notification, tuple(events))

    def _state(self, notification: Notification) -> State:
        facts = self._facts(notification.id)
        own = facts.get(notification.id)
        return notification_state(
            [_furthest(known.values()).state for id, known in facts.items() if slot_of(id)],
            _furthest(own.values()).state if own else State.PENDING,
        )

    def _matches(self, notification: Notification, filter: HistoryFilter) -> bool:
        return (
            (filter.user_id is None or notification.to.user_id == filter.user_id)
            and (filter.category is None or notification.category == filter.category)
            and (filter.since is None or notification.accepted_at >= filter.since)
            and (filter.until is None or notification.accepted_at < filter.until)
            and (filter.state is None or self._state(notification) is filter.state)
        )


class MemoryChanges:
    """See Changes."""

    def __init__(self, schedule: MemorySchedule, history: MemoryHistory) -> None:
        self._schedule = schedule
        self._history = history

    async def waiting(self, tenant: str, notification_id: UUID) -> Waiting | None:
        """See Changes."""
        known = await self._history.get(tenant, notification_id)
        return None if known is None else self._schedule.for_its_send_time(notification_id)

    async def change(self, row: Waiting, changed: Outcome) -> bool:
        """See Changes."""
        notification, wait = changed.notification, changed.wait
        assert notification is not None and wait is not None, "a change has both"  # noqa: S101, PT018 - one promise
        if not self._schedule.change(row, wait):
            return False
        self._history.amend(notification)
        await self._history.append([msgspec.structs.replace(changed, wait=None)])
        return True


class MemoryCancellations:
    """See Cancellations."""

    def __init__(self, schedule: MemorySchedule) -> None:
        self._schedule = schedule

    async def cancel(self, tenant: str, notification_id: UUID, now: int) -> None:
        """See Cancellations."""
        self._schedule.hurry(notification_id, now)

    async def prune(self, before: int, most: int) -> int:
        """See Cancellations."""
        hurried = self._schedule.hurried
        old = [id for id, at in hurried.items() if at < before and instant_of(id) < before][:most]
        for id in old:
            del hurried[id]
        return len(old)


def _event(outcome: Outcome) -> Event:
    return Event(
        id=outcome.id,
        at=outcome.at,
        state=outcome.state,
        attempt=outcome.attempt,
        step=outcome.step,
        reason=outcome.reason,
        provider=outcome.provider,
        reference=outcome.reference,
        detail=outcome.detail,
        address="" if outcome.address is None else outcome.address.value,
    )


def _furthest(events: Collection[Event]) -> Event:
    return max(events, key=lambda event: (rank(event.state, event.attempt), event.step))


def _ends_an_attempt(event: Event) -> bool:
    return event.state in RESTING or (event.state is State.DEFERRED and event.reason in TRIED_AGAIN)
