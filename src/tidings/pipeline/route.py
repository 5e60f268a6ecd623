"""route: a notification becomes one delivery per address, now or later, or a reason why not."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec import Struct

from tidings.model import topics
from tidings.model.delivery import Delivery
from tidings.model.ids import delivery_id
from tidings.model.notification import Notification
from tidings.model.outcome import Outcome, Wait
from tidings.model.vocabulary import Channel, Reason, State
from tidings.model.wire import encode
from tidings.pipeline.categories import Categories
from tidings.pipeline.deliveries import build, key_of, wait_for
from tidings.pipeline.packs import pack
from tidings.pipeline.stage import REPEATED, Taken
from tidings.policy.routing import Planned, Slotted, addresses, choose, wanted
from tidings.policy.transitions import IN_FLIGHT
from tidings.ports.clock import Clock
from tidings.ports.queue import Item
from tidings.ports.renderer import Renderer
from tidings.ports.store import Cancellations, Person, Users

NOBODY = Person()


class _Case(Struct):
    """A notification with what is known about its recipient."""

    notification: Notification
    repeated: bool
    person: Person
    content: Sequence[Channel]
    found: Sequence[Slotted]


class Route:
    """The second stage. Its only effect is its outputs, so it may be repeated at will."""

    def __init__(
        self, users: Users, cancellations: Cancellations, categories: Categories, renderer: Renderer, clock: Clock
    ) -> None:
        self._users = users
        self._cancellations = cancellations
        self._categories = categories
        self._renderer = renderer
        self._clock = clock

    async def __call__(self, batch: Sequence[Taken[Notification]]) -> list[Item]:
        """Deliveries and outcomes for a batch of notifications."""
        now = self._clock.now()
        outcomes: list[Outcome] = []
        items: list[Item] = []
        cancelled = await self._cancellations.cancelled([taken.value.id for taken in batch])
        ready: list[Taken[Notification]] = []
        for taken in batch:
            notification = taken.value
            if notification.id in cancelled:
                outcomes.append(_about(notification, now, State.CANCELLED, Reason.CANCELLED))
            elif notification.send_at is not None and notification.send_at > now:
                outcomes.append(_later(notification, now, notification.send_at))
            else:
                ready.append(taken)
        for case, plan in await self._plans(ready, now):
            outcomes.append(_about(case.notification, now, State.PENDING, ""))
            for planned in plan:
                delivery = _delivery(case, planned)
                outcomes.append(_planned(case.notification, planned, delivery, now))
                if delivery is not None and planned.state is State.PENDING:
                    items.append(_put(delivery, repeated=case.repeated))
        return items + pack(outcomes)

    async def _plans(self, batch: Sequence[Taken[Notification]], now: int) -> list[tuple[_Case, list[Planned]]]:
        people = await self._users.people(
            {(taken.value.tenant, taken.value.to.user_id) for taken in batch if taken.value.to.user_id is not None}
        )
        cases = [
            await self._case(taken, people.get((taken.value.tenant, taken.value.to.user_id or ""))) for taken in batch
        ]
        await self._categories.load({taken.value.tenant for taken in batch})
        suppressed = await self._users.suppressed(
            {
                (case.notification.tenant, address)
                for case in cases
                for _, address in case.found
                if address.channel is not Channel.INAPP
            }
        )
        return [
            (
                case,
                choose(
                    case.notification,
                    found=case.found,
                    profile=case.person.profile,
                    preferences=case.person.preferences,
                    category=self._categories.get(case.notification.tenant, case.notification.category),
                    content=case.content,
                    suppressed=suppressed,
                    now=now,
                ),
            )
            for case in cases
        ]

    async def _case(self, taken: Taken[Notification], person: Person | None) -> _Case:
        notification = taken.value
        if notification.template is not None:
            content = await self._renderer.channels(notification.tenant, notification.template)
        else:
            content = notification.content.channels() if notification.content is not None else ()
        person = person or NOBODY
        found = addresses(notification.to, person.profile, wanted(notification, content))
        return _Case(notification, taken.repeated or taken.begun, person, content, found)


def _about(notification: Notification, now: int, state: State, reason: str) -> Outcome:
    """The fact about the notification itself, with which its history begins."""
    return Outcome(notification.id, notification.tenant, now, state, reason=reason, notification=notification)


def _later(notification: Notification, now: int, due: int) -> Outcome:
    # Without send_at the next routing cannot defer again, whatever the clock over there says.
    waiting = msgspec.structs.replace(notification, send_at=None)
    wait = Wait(due, topics.requests(notification.priority), key_of(notification), encode(waiting))
    return msgspec.structs.replace(_about(notification, now, State.DEFERRED, Reason.SEND_AT), wait=wait)


def _delivery(case: _Case, planned: Planned) -> Delivery | None:
    """The delivery of a plan's entry, unless there is nothing to send."""
    if planned.address is None or planned.state not in {State.PENDING, State.DEFERRED}:
        return None
    return build(
        case.notification,
        planned.slot,
        planned.address,
        case.person.profile,
        alternatives=planned.alternatives,
        step=1 if planned.state is State.DEFERRED else 0,
    )


def _planned(notification: Notification, planned: Planned, delivery: Delivery | None, now: int) -> Outcome:
    wait = None
    if planned.due is not None and delivery is not None:
        wait = wait_for(delivery, planned.due)
    return Outcome(
        id=delivery_id(notification.id, planned.slot),
        tenant=notification.tenant,
        at=now,
        state=planned.state,
        # A decision not to send comes before every attempt: another claim over this batch may have decided otherwise,
        # and what it sent is sent.
        attempt=1 if planned.state in IN_FLIGHT else 0,
        reason=planned.reason,
        detail=planned.detail,
        address=planned.address,
        wait=wait,
    )


def _put(delivery: Delivery, *, repeated: bool) -> Item:
    headers = {REPEATED: "1"} if repeated else {}
    return Item(topics.deliveries(delivery.channel, delivery.priority), delivery.key, encode(delivery), headers)
