"""The sweeper: put lost deliveries, and lost notifications (marked as repeated), back into their queues.

Sweep only what is proven lost: it has had no fact for a while, and no row in the schedule; then its queue was worked
off, then `outcomes`; and after that the history still says the same (passage.py). Until then it counts as backlog.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from uuid import UUID

import msgspec
import structlog
from msgspec import Struct

from tidings.model import topics
from tidings.model.delivery import Delivery
from tidings.model.errors import Unavailable, Unreadable
from tidings.model.history import NotificationRecord
from tidings.model.ids import DELIVERY_PREFIX, NOTIFICATION_PREFIX, notification_of, slot_of, to_text
from tidings.model.notification import Notification
from tidings.model.outcome import Outcome, Wait
from tidings.model.user import Address
from tidings.model.vocabulary import Channel, Lane, Reason, State, Strategy
from tidings.model.wire import decode_delivery, encode
from tidings.pipeline.rounds.passage import Passage, arrived
from tidings.pipeline.runtime.deliveries import build, key_of, wait_for
from tidings.pipeline.runtime.packs import pack
from tidings.policy.letters import last_address
from tidings.policy.routing import Slotted, addresses, channel_of, wanted
from tidings.policy.stuck import MOST_SWEEPS, STUCK_AFTER_MS, Stuck, in_flight, next_look, stuck
from tidings.ports.queue import Queue
from tidings.ports.renderer import Renderer
from tidings.ports.schedule import Waiting
from tidings.ports.store import Shard
from tidings.ports.users import NO_USER, Person

LOOKS = 2_000
"""Most notifications that one round looks at."""
MOST_SUSPECTS = 10_000
"""Most suspects that are followed through the queues at once. The rest of a larger backlog is looked at later."""

_log = structlog.get_logger("tidings.sweep")


class Suspect(Struct):
    """A notification or delivery without recent facts that may be lost, and how far the proof has come."""

    stuck: Stuck
    notification: UUID
    passage: Passage


class Swept(Struct, frozen=True):
    """The result of a round: how many were put back, how many ended `dead`, and how many count as backlog."""

    requeued: int = 0
    ended: int = 0
    backlog: int = 0


class Sweeper:
    """Looks at the watched notifications, and sweeps what is proven lost."""

    def __init__(self, shard: Shard, renderer: Renderer, queue: Queue) -> None:
        self._history = shard.history
        self._schedule = shard.schedule
        self._watched = shard.watched
        self._users = shard.users
        self._renderer = renderer
        self._queue = queue
        self._suspects: dict[UUID, Suspect] = {}

    async def once(self, now: int) -> Swept:
        """Make one round at `now`."""
        await self._look(now)
        suspects = list(self._suspects.values())
        over = await arrived(self._queue, suspects, lambda suspect: suspect.passage)
        requeued, ended = await self._settle(over, now)
        return Swept(requeued, ended, len(self._suspects))

    def forget(self) -> None:
        """Drop all suspects, because another process makes the rounds."""
        self._suspects.clear()

    async def _look(self, now: int) -> None:
        """Look at the watched notifications that are due: note suspects, and stop watching those that rest."""
        due = await self._watched.due(now, LOOKS)
        records = [record for record in await self._history.get_many(due) if in_flight(record)]
        moving = [record.notification.id for record in records]
        rows = await self._schedule.waiting(moving)
        waiting = {_waits_for(row) for row in rows}
        dues: dict[UUID, list[int]] = {}
        for row in rows:
            dues.setdefault(row.notification, []).append(row.due)
        looks = []
        for record in records:
            notification = record.notification
            looks.append((notification.id, next_look(now, notification.accepted_at, dues.get(notification.id, ()))))
            for found in stuck(record, waiting, now):
                if len(self._suspects) < MOST_SUSPECTS:
                    passage = Passage(_topics(notification, found.id))
                    self._suspects.setdefault(found.id, Suspect(found, notification.id, passage))
        await self._watched.watch(looks)
        await self._watched.unwatch(set(due) - set(moving))

    async def _settle(self, over: Sequence[Suspect], now: int) -> tuple[int, int]:
        """Sweep the suspects whose last fact is still the same; how many were put back, and how many ended."""
        if not over:
            return 0, 0
        records = {
            record.notification.id: record
            for record in await self._history.get_many({suspect.notification for suspect in over})
        }
        lost: list[tuple[NotificationRecord, Stuck]] = []
        for suspect in over:
            del self._suspects[suspect.stuck.id]
            record = records.get(suspect.notification)
            if record is not None and any(event == suspect.stuck.last for event in in_flight(record)):
                lost.append((record, suspect.stuck))
        facts = await self._facts(lost, now)
        if facts:
            await self._queue.put(pack(facts))
            await self._watched.watch([(notification_of(one.id), now + STUCK_AFTER_MS) for one in facts])
        ended = sum(one.state is State.DEAD for one in facts)
        return len(facts) - ended, ended

    async def _facts(self, lost: Sequence[tuple[NotificationRecord, Stuck]], now: int) -> list[Outcome]:
        people = await self._users.people(
            {
                (record.notification.tenant, record.notification.to.user_id)
                for record, _ in lost
                if record.notification.to.user_id is not None
            }
        )
        facts: list[Outcome] = []
        for record, found in lost:
            notification = record.notification
            person = people.get((notification.tenant, notification.to.user_id or ""), NO_USER)
            try:
                wait = None if found.sweeps >= MOST_SWEEPS else await self._wait(record, found, person)
            except Unavailable:
                raise
            except Exception:
                # It stays watched, is a suspect again at its next look, and stops no other.
                _log.exception("a lost delivery could not be put back", id=_id_text(found))
                continue
            facts.append(_fact(notification, found, _address(record, found.id), wait, now))
            _log_sweep(found, dead=wait is None)
        return facts

    async def _wait(self, record: NotificationRecord, found: Stuck, person: Person) -> Wait | None:
        """The wait that puts it back into its queue at once; None if its address is unknown."""
        notification, due = record.notification, found.last.at
        if not slot_of(found.id):
            waiting = msgspec.structs.replace(notification, step=found.step + 2)
            topic = topics.requests(notification.priority)
            return Wait(due, topic, key_of(notification), encode(waiting), repeated=True)
        address = _address(record, found.id)
        if address is None:
            return None
        delivery: Delivery = msgspec.structs.replace(
            build(
                notification,
                slot_of(found.id),
                address,
                person.profile,
                alternatives=await self._alternatives(record, found.id, person),
                attempt=found.attempt,
                step=found.step + 2,
            ),
            first_attempt=found.first_attempt,
            tried=found.tried,
            pinned=found.pinned,
            doubtful=bool(found.tried or found.pinned),
        )
        # Not marked `repeated`: it is proven to be in no queue. Its step makes `deliver` ask the history anyway.
        return wait_for(delivery, due)

    async def _alternatives(self, record: NotificationRecord, id: UUID, person: Person) -> list[Slotted]:
        """The alternatives that were not tried yet, if the strategy is `first_reachable`; else none."""
        notification = record.notification
        if notification.strategy is not Strategy.FIRST_REACHABLE:
            return []
        content: Sequence[Channel] = ()
        if notification.template is not None:
            content = await self._renderer.channels(notification.tenant, notification.template)
        elif notification.content is not None:
            content = notification.content.channels()
        known = {slot_of(event.id) for event in record.events}
        found = addresses(notification.to, person.profile, wanted(notification, content))
        return [slotted for slotted in found if slotted[0] not in known and slotted[1].channel in content]


def _fact(notification: Notification, found: Stuck, address: Address | None, wait: Wait | None, now: int) -> Outcome:
    """The fact that it was swept, or without a `wait` that it ends. Sweeping the same state again is the same fact."""
    return Outcome(
        id=found.id,
        tenant=notification.tenant,
        at=now,
        state=State.DEAD if wait is None else State.DEFERRED,
        attempt=found.last.attempt,
        step=found.step + 1,
        reason=Reason.STUCK if wait is None else Reason.SWEPT,
        detail=f"still {found.last.state.value} {(now - found.last.at) // 1000} s after its last fact, in no queue",
        address=address,
        wait=wait,
    )


def _address(record: NotificationRecord, id: UUID) -> Address | None:
    if not slot_of(id):
        return None
    value = last_address(record.events, id)
    return Address(channel_of(id), value) if value else None


def _topics(notification: Notification, id: UUID) -> list[str]:
    """The queues that may hold the notification or delivery `id`."""
    lanes = [Lane.of(notification.priority, surplus=surplus) for surplus in (False, True)]
    if not slot_of(id):
        return [topics.requests(lane) for lane in lanes]
    return [topics.deliveries(channel_of(id), lane) for lane in lanes]


def _waits_for(row: Waiting) -> UUID:
    """The id of the delivery or notification that a schedule row will put back."""
    if row.item.topic.startswith("requests."):
        return row.notification
    try:
        return decode_delivery(row.item.body).id
    except Unreadable:
        return row.notification  # unreadable: it goes aside when it is due, and is lost from then on


def _id_text(found: Stuck) -> str:
    return to_text(DELIVERY_PREFIX if slot_of(found.id) else NOTIFICATION_PREFIX, found.id)


def _log_sweep(found: Stuck, *, dead: bool) -> None:
    known: Mapping[str, object] = {
        "id": _id_text(found),
        "state": found.last.state.value,
        "reason": found.last.reason,
        "sweeps": found.sweeps,
    }
    if dead:
        _log.error("lost again and again: it is a dead letter now", **known)
    else:
        _log.warning("lost on its way: it goes back into its queue", **known)
