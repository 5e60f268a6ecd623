"""route: turn each notification into deliveries, one per address, sent now or later, or record why there is none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
from msgspec import Struct

from tidings.model import topics
from tidings.model.delivery import Delivery
from tidings.model.ids import delivery_id
from tidings.model.notification import Notification
from tidings.model.outcome import Outcome, Wait
from tidings.model.vocabulary import Channel, Lane, Reason, State
from tidings.model.wire import encode
from tidings.pipeline.runtime.beginning import Begin
from tidings.pipeline.runtime.categories import Categories
from tidings.pipeline.runtime.deliveries import build, key_of, wait_for
from tidings.pipeline.runtime.packs import pack
from tidings.pipeline.runtime.reader import REPEATED, Claimed
from tidings.policy.routing import Planned, Slotted, addresses, choose, send_zone, wanted
from tidings.policy.shares import Shares
from tidings.policy.transitions import IN_FLIGHT
from tidings.policy.wall_clock import instant_of, next_wall, zone
from tidings.ports.clock import Clock
from tidings.ports.queue import Item
from tidings.ports.renderer import Renderer
from tidings.ports.standings import Standings, suppressible
from tidings.ports.users import NO_USER, Person, UserKey

NOT_NARROW: Mapping[Channel, Shares] = {}


class _Case(Struct):
    """A notification with its recipient, the channels that it has content for, and the addresses with their slots."""

    notification: Notification
    repeated: bool
    person: Person
    content: Sequence[Channel]
    found: Sequence[Slotted]


class Route:
    """The second stage. Its only effect is its outputs, so it may be repeated at will.

    `surplus`: it reads a surplus lane, so all its deliveries are surplus. `narrow`: the shares of channels whose
    vendors take less than a tenant may send; deliveries beyond them become surplus here.
    """

    def __init__(
        self,
        standings: Standings,
        categories: Categories,
        renderer: Renderer,
        clock: Clock,
        *,
        surplus: bool = False,
        narrow: Mapping[Channel, Shares] = NOT_NARROW,
    ) -> None:
        self._standings = standings
        self._categories = categories
        self._renderer = renderer
        self._clock = clock
        self._surplus = surplus
        self._narrow = narrow

    async def __call__(self, batch: Sequence[Claimed[Notification]], _begin: Begin) -> list[Item]:
        """The deliveries and outcomes of a batch of notifications, as items to put."""
        now = self._clock.now()
        outcomes: list[Outcome] = []
        items: list[Item] = []
        notifications = [claimed.value for claimed in batch]
        standing = await self._standings.look_up(
            {(each.tenant, each.to.user_id) for each in notifications if each.to.user_id is not None},
            notifications=[each.id for each in notifications],
        )
        come: list[Claimed[Notification]] = []
        for claimed in batch:
            notification = claimed.value
            if notification.id in standing.cancelled:
                outcomes.append(_about(notification, now, State.CANCELLED, Reason.CANCELLED))
            elif notification.send_at is not None and (due := _due(claimed, notification.send_at, now)) is not None:
                outcomes.append(_later(claimed, notification, now, due))
            else:
                come.append(claimed)
        ready = _past_local_time(come, standing.people, outcomes, now)
        for case, plan in await self._plans(ready, standing.people, now):
            outcomes.append(_about(case.notification, now, State.PENDING, ""))
            for planned in plan:
                delivery = _delivery(case, planned)
                outcomes.append(_planned(case.notification, planned, delivery, now))
                if delivery is not None and planned.state is State.PENDING:
                    items.append(_put(delivery, repeated=case.repeated, surplus=self._is_surplus(delivery, case)))
        return items + pack(outcomes)

    def _is_surplus(self, delivery: Delivery, case: _Case) -> bool:
        shares = self._narrow.get(delivery.channel)
        if self._surplus or shares is None:
            return self._surplus
        # A copy goes to the surplus, to be claimed after its original, wherever that is.
        return case.repeated or not shares.take(delivery.tenant, delivery.priority, 1, self._clock.elapsed())

    async def _plans(
        self, batch: Sequence[Claimed[Notification]], people: Mapping[UserKey, Person], now: int
    ) -> list[tuple[_Case, list[Planned]]]:
        cases = [await self._case(claimed, people) for claimed in batch]
        await self._categories.load({claimed.value.tenant for claimed in batch})
        planned = ((case.notification.tenant, address) for case in cases for _, address in case.found)
        suppressed = (await self._standings.look_up(addresses=suppressible(planned))).suppressed
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
                    incarnation=case.person.incarnation,
                ),
            )
            for case in cases
        ]

    async def _case(self, claimed: Claimed[Notification], people: Mapping[UserKey, Person]) -> _Case:
        notification = claimed.value
        person = people.get((notification.tenant, notification.to.user_id or ""), NO_USER)
        if notification.template is not None:
            content = await self._renderer.channels(notification.tenant, notification.template)
        else:
            content = notification.content.channels() if notification.content is not None else ()
        if notification.incarnation is None and person.incarnation is not None:
            notification = msgspec.structs.replace(notification, incarnation=person.incarnation)
        found = addresses(notification.to, person.profile, wanted(notification, content))
        return _Case(notification, _is_copy(claimed), person, content, found)


def _about(notification: Notification, now: int, state: State, reason: str) -> Outcome:
    """A fact about the notification itself. It carries the notification, with which the history begins."""
    return Outcome(notification.id, notification.tenant, now, state, reason=reason, notification=notification)


def _is_copy(claimed: Claimed[Notification]) -> bool:
    """Whether an earlier claim may have routed the same notification."""
    return claimed.begun or claimed.repeated


def _due(claimed: Claimed[Notification], due: int, now: int) -> int | None:
    """The instant until which a notification with send time `due` must wait; None: go on now.

    A notification waits once, even if the clock of the worker that takes it next is behind. A possible copy waits even
    if `due` has passed by now: if the original waited too, both waits are one fact and are recorded once; if not, the
    wait is marked as repeated.
    """
    if claimed.value.step:
        return None
    return due if due > now or (_is_copy(claimed) and due > claimed.value.accepted_at) else None


def _past_local_time(
    batch: Sequence[Claimed[Notification]], people: Mapping[UserKey, Person], outcomes: list[Outcome], now: int
) -> list[Claimed[Notification]]:
    """The notifications that need not wait for a local time of their user. The waits of the others go to `outcomes`.

    A notification that has waited is checked again with the user's timezone of now, and waits once more if its local
    time has not come there. That ends, because the first routing adds the date to the local time.
    """
    ready: list[Claimed[Notification]] = []
    for claimed in batch:
        notification = claimed.value
        if notification.send_at_local is None:
            ready.append(claimed)
            continue
        person = people.get((notification.tenant, notification.to.user_id or ""), NO_USER)
        where = zone(send_zone(notification.to, person.profile))
        # Look from the acceptance on, not from now: a time that passed while the notification was queued has come.
        wall = next_wall(notification.send_at_local, where, notification.accepted_at)
        due = instant_of(wall, where)
        if due <= now and _due(claimed, due, now) is None:
            ready.append(claimed)
            continue
        dated = msgspec.structs.replace(notification, send_at_local=wall.isoformat())
        if notification.expires_at is not None and notification.expires_at <= due:
            outcomes.append(_about(dated, now, State.EXPIRED, Reason.EXPIRED))
        else:
            outcomes.append(_later(claimed, dated, now, due))
    return ready


def _later(claimed: Claimed[Notification], notification: Notification, now: int, due: int) -> Outcome:
    """The fact that the notification waits until `due`. A possible copy stays marked as repeated."""
    waiting = msgspec.structs.replace(notification, step=notification.step + 1)
    topic, key = topics.requests(notification.priority), key_of(notification)
    return msgspec.structs.replace(
        _about(notification, now, State.DEFERRED, Reason.SEND_AT),
        step=notification.step,
        wait=Wait(due, topic, key, encode(waiting), repeated=_is_copy(claimed)),
    )


def _delivery(case: _Case, planned: Planned) -> Delivery | None:
    """The planned delivery, or None if nothing is to be sent."""
    if planned.address is None or planned.state not in {State.PENDING, State.DEFERRED}:
        return None
    return build(
        case.notification,
        planned.slot,
        planned.address,
        case.person.profile,
        alternatives=planned.alternatives,
        # Step 1 makes `deliver` ask the history. Needed for deliveries that wait, and for notifications that waited for
        # a local time more than once: a repeated claim decides with another clock, so there may be two of them.
        step=1 if planned.state is State.DEFERRED or case.notification.step > 1 else 0,
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
        # A decision not to send has attempt 0, below every attempt: another claim over this batch may have decided to
        # send, and its facts must win.
        attempt=1 if planned.state in IN_FLIGHT else 0,
        reason=planned.reason,
        detail=planned.detail,
        address=planned.address,
        wait=wait,
    )


def _put(delivery: Delivery, *, repeated: bool, surplus: bool) -> Item:
    headers = {REPEATED: "1"} if repeated else {}
    lane = Lane.of(delivery.priority, surplus=surplus)
    return Item(topics.deliveries(delivery.channel, lane), delivery.key, encode(delivery), headers)
