"""The evidence of a run, for the rules: history as it reads, and the logs of the vendors and the inbox."""

from __future__ import annotations

from collections import Counter, defaultdict
from uuid import UUID

from tidings.model.history import HistoryFilter, NotificationRecord
from tidings.model.ids import notification_of, slot_of
from tidings.model.notification import Notification
from tidings.model.user import Category
from tidings.model.vocabulary import Reason, State
from tidings.model.wire import decode_delivery, decode_notification, decode_outcomes
from tidings.pipeline.runtime.setting_aside import ASIDE
from tidings.policy.transitions import rank
from tidings.simulation import scenario as scenarios
from tidings.simulation.observers import Rule, Violation
from tidings.simulation.processes import ADAPTER_BUGS
from tidings.simulation.vendors import Call
from tidings.simulation.world import World


class Evidence:
    """History and the logs of the vendors and the inbox, indexed.

    `aside` has the notifications with an item aside because of an adapter bug, and the reason. They wait for a person;
    most rules do not apply to them. `notifications` are those in history and those put aside before they were recorded.
    """

    def __init__(
        self,
        world: World,
        records: dict[UUID, NotificationRecord],
        aside: dict[UUID, str],
        notifications_aside: dict[UUID, Notification],
    ) -> None:
        self.world = world
        self.aside = aside
        self.notifications = notifications_aside | {id: record.notification for id, record in records.items()}
        self.records = records
        self.states: dict[UUID, State] = {}
        self.uncertain: set[UUID] = set()
        self.sent: set[tuple[UUID, int]] = set()
        """The attempts recorded as taken, as (delivery, attempt), whatever else is recorded about them."""
        self.replays: Counter[UUID] = Counter()
        self.copied: set[UUID] = set()
        for record in records.values():
            best: dict[UUID, int] = {}
            for event in record.events:
                place = rank(event.state, event.attempt)
                if slot_of(event.id) and place > best.get(event.id, -1):
                    best[event.id], self.states[event.id] = place, event.state
                if event.state is State.UNCERTAIN:
                    self.uncertain.add(event.id)
                if event.state in {State.SENT, State.DELIVERED}:
                    self.sent.add((event.id, event.attempt))
                if event.state is State.PENDING and event.reason == Reason.MAY_HAVE_BEEN_SENT:
                    self.copied.add(event.id)
                if event.reason == Reason.REPLAYED:
                    self.replays[event.id] += 1
        self.calls: dict[UUID, list[Call]] = defaultdict(list)
        for log in (*(vendor.log for vendor in world.vendors.values()), world.inbox_log):
            for call in log:
                self.calls[call.delivery].append(call)

    def expires_at(self, delivery: UUID) -> int | None:
        """When the delivery's notification expires, in milliseconds since the epoch; None if never."""
        notification = self.notifications.get(notification_of(delivery))
        return None if notification is None else notification.expires_at


async def gather(world: World) -> tuple[Evidence, list[Violation]]:
    """The evidence, and a violation for each item that is aside for another reason than an adapter bug."""
    records: dict[UUID, NotificationRecord] = {}
    for tenant in scenarios.TENANTS:
        page = await world.store.history.find(tenant, HistoryFilter(), None, 10_000)
        records |= {record.notification.id: record for record in page.records}
    aside: dict[UUID, str] = {}
    notifications: dict[UUID, Notification] = {}
    unreadable: list[Violation] = []
    async for name in world.objects.list(ASIDE):
        if not name.endswith(".txt"):
            continue
        why = (await world.objects.get(name) or b"").decode()
        if not any(bug.__name__ in why for bug in ADAPTER_BUGS):
            unreadable.append(Violation(Rule.READABLE, f"{name.split('/')[1]}: {why}"))
            continue
        body = await world.objects.get(name.removesuffix("txt") + "bin") or b""
        for id, notification in _notifications_in(name.split("/")[1], body):
            aside[id] = why
            if notification is not None:
                notifications[id] = notification
    return Evidence(world, records, aside, notifications), unreadable


def _notifications_in(folder: str, body: bytes) -> list[tuple[UUID, Notification | None]]:
    """The notifications that an item aside is about, each with its content if the item has it."""
    if folder.startswith("requests"):
        notification = decode_notification(body)
        return [(notification.id, notification)]
    if folder.startswith("deliveries"):
        return [(notification_of(decode_delivery(body).id), None)]
    return [(notification_of(outcome.id), outcome.notification) for outcome in decode_outcomes(body)]


def category_of(call: Call) -> Category:
    """The category of a call, without the changes made during the run."""
    return scenarios.KNOWN_CATEGORIES.get(call.category) or Category(call.category)


def describe_calls(calls: list[Call]) -> str:
    """The calls in words: provider, time, process, attempt."""
    return ", ".join(
        f"{call.vendor.name} at {call.at_s:.3f} s by {call.process} (attempt {call.attempt})" for call in calls
    )
