"""What must hold at the end of every run, whatever befell it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import datetime
from uuid import UUID

import msgspec

from tidings.model.history import HistoryFilter, NotificationRecord
from tidings.model.ids import instant_of, notification_of, slot_of
from tidings.model.user import Address, Category
from tidings.model.vocabulary import Channel, Reason, State
from tidings.policy.preferences import refusal
from tidings.policy.quiet_hours import wake_up
from tidings.policy.routing import channel_of
from tidings.policy.transitions import RESTING, rank, shown
from tidings.policy.wall_clock import zone
from tidings.simulation import scenario as scenarios
from tidings.simulation.observers import Rule, Violation
from tidings.simulation.processes import Process
from tidings.simulation.vendors import Call
from tidings.simulation.world import World

TAKEN = frozenset({State.SENT, State.DELIVERED})
_CATEGORIES = {category.name: category for category in scenarios.CATEGORIES}


class Evidence:
    """What was left behind: history as it reads, and the logs of the vendors and the inbox."""

    def __init__(self, world: World, records: dict[UUID, NotificationRecord]) -> None:
        self.world = world
        self.records = records
        self.states: dict[UUID, State] = {}
        self.uncertain: set[UUID] = set()
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
                if event.state is State.PENDING and event.reason == Reason.MAY_HAVE_BEEN_SENT:
                    self.copied.add(event.id)
                if event.reason == Reason.REPLAYED:
                    self.replays[event.id] += 1
        self.calls: dict[UUID, list[Call]] = defaultdict(list)
        for log in (*(vendor.log for vendor in world.vendors.values()), world.inbox_log):
            for call in log:
                self.calls[call.delivery].append(call)

    def expires_at(self, delivery: UUID) -> int | None:
        """When the delivery's notification expires."""
        record = self.records.get(notification_of(delivery))
        return None if record is None else record.notification.expires_at


async def gather(world: World) -> Evidence:
    """Read everything back."""
    records: dict[UUID, NotificationRecord] = {}
    for tenant in scenarios.TENANTS:
        page = await world.store.history.find(tenant, HistoryFilter(), None, 10_000)
        records |= {record.notification.id: record for record in page.records}
    return Evidence(world, records)


async def violations(world: World) -> list[Violation]:
    """Everything that does not hold, in sentences."""
    evidence = await gather(world)
    found = [*world.complaints]
    async for name in world.objects.list("aside/"):
        if name.endswith(".txt"):
            why = await world.objects.get(name) or b""
            found.append(Violation(Rule.READABLE, f"{name.split('/')[1]}: {why.decode()}"))
    for check in (
        nothing_is_lost,
        answers_agree,
        nothing_is_doubled,
        history_tells_the_truth,
        doubts_are_founded,
        wishes_are_kept,
        caps_are_kept,
        all_heals,
    ):
        found += check(evidence)
    found += await occurrences_come_once(evidence)
    return found + await the_books_balance(evidence)


def nothing_is_lost(evidence: Evidence) -> Iterator[Violation]:
    """Every id that a client holds is in history, and everything in history has come to rest."""
    for id, tenant in evidence.world.clients.ledger.told().items():
        record = evidence.records.get(id)
        if record is None or record.notification.tenant != tenant:
            yield Violation(Rule.KEPT, f"{id} was accepted and is lost")
    for id, record in evidence.records.items():
        states = [state for delivery, state in evidence.states.items() if notification_of(delivery) == id]
        own = max(
            (event for event in record.events if event.id == id),
            key=lambda event: rank(event.state, event.attempt),
            default=None,
        )
        if not states and (own is None or own.state not in RESTING):
            yield Violation(Rule.RESTS, f"{id} has no delivery and does not rest")
    for delivery, state in evidence.states.items():
        if state not in RESTING:
            yield Violation(Rule.RESTS, f"{delivery} is {state.value} for ever")


def answers_agree(evidence: Evidence) -> Iterator[Violation]:
    """All answers to one key name the same ids, and no request became more notifications than it may."""
    ledger = evidence.world.clients.ledger
    made = Counter(
        (record.notification.tenant, msgspec.json.decode(record.notification.metadata)["n"])
        for record in evidence.records.values()
    )
    for asked in evidence.world.scenario.asked:
        for number in asked.numbers:
            told = ledger.ids_of(asked, number)
            ids = told - {None}
            if asked.key is not None and len(ids) > 1:
                yield Violation(Rule.ANSWERED_ONCE, f"number {number} of request {asked.numbers} got {len(ids)} ids")
            least = len(ids)
            most = 1 if asked.key is not None else ledger.tries.get(asked, 0)
            if told == {None} and not asked.twice and most == ledger.tries[asked] == 1:
                most = 0  # of several tries an earlier one, on which the client gave up, may have come through later
            count = made[asked.tenant, number]
            if not least <= count <= most:
                yield Violation(
                    Rule.MADE_ONCE,
                    f"number {number} of request {asked.numbers} is there {count} times, not {least} to {most}",
                )


def nothing_is_doubled(evidence: Evidence) -> Iterator[Violation]:
    """Nobody gets the same delivery twice, but in a category that allows it."""
    for delivery, calls in evidence.calls.items():
        if _category(calls[0]).allow_doubles:
            continue
        takes = [call for call in calls if call.took]
        copied = delivery in evidence.copied
        if len(takes) > 1 + evidence.replays[delivery] and calls[0].vendor.channel is not Channel.INAPP:
            yield Violation(
                Rule.COPIES if copied else Rule.SENT_ONCE, f"{delivery} was sent {len(takes)} times: {_places(takes)}"
            )
        tried = Counter(call.attempt for call in calls if not (call.vendor.idempotent or call.declined))
        for attempt, count in tried.items():
            if count > 1:
                yield Violation(
                    Rule.COPIES if copied else Rule.TRIED_ONCE,
                    f"{delivery}: attempt {attempt} may have been taken {count} times: {_places(calls)}",
                )


def history_tells_the_truth(evidence: Evidence) -> Iterator[Violation]:
    """What history calls sent was taken by somebody, and what was taken is called sent, or was called uncertain."""
    for delivery, state in evidence.states.items():
        took = any(call.took or call.repeated for call in evidence.calls.get(delivery, ()))
        bounced = state is State.FAILED and took
        if state in TAKEN and not took:
            yield Violation(Rule.SENT_IS_TAKEN, f"{delivery} is {state.value}, and nobody took it")
        if (
            took
            and state not in TAKEN
            and not bounced
            and delivery not in evidence.uncertain
            and not evidence.replays[delivery]
        ):
            yield Violation(
                Rule.TAKEN_IS_SENT, f"{delivery} is {state.value}, and was taken: {_places(evidence.calls[delivery])}"
            )
    for delivery in evidence.calls:
        if delivery not in evidence.states:
            yield Violation(Rule.KEPT, f"{delivery} was offered, and is not in history")


def doubts_are_founded(evidence: Evidence) -> Iterator[Violation]:
    """What is uncertain was offered to a vendor, or was one of the calls that its process was just about to make."""
    about_to_be: Counter[tuple[Process, Channel]] = Counter()
    for delivery in evidence.uncertain - evidence.calls.keys():
        begun_by = evidence.world.broker.begun.get(delivery, ())
        if not begun_by:
            yield Violation(Rule.DOUBT_IS_OFFERED, f"{delivery} is uncertain, and nobody was ever asked to send it")
        for process in begun_by:
            about_to_be[process, channel_of(delivery)] += 1
    for (process, channel), count in about_to_be.items():
        vendors = [vendor.traits for vendor in evidence.world.vendors.values() if vendor.traits.channel is channel]
        most = sum(traits.concurrency * traits.batch_size for traits in vendors)
        if vendors and count > most:
            text = f"{process.name} had begun {count} {channel.value} deliveries that it offered to nobody"
            yield Violation(Rule.DOUBT_IS_OFFERED, text)


def wishes_are_kept(evidence: Evidence) -> Iterator[Violation]:
    """Every call was made after asking, and by what the answers said nobody had anything against it."""
    for calls in evidence.calls.values():
        for call in calls:
            why = _objection(evidence, call)
            if why is not None:
                yield Violation(
                    Rule.WISHES,
                    f"{call.delivery} was offered to {call.vendor.name} at {call.at:.3f} s by {call.process}: {why}",
                )


def caps_are_kept(evidence: Evidence) -> Iterator[Violation]:
    """In no window that a cap names did a person get more notifications, however late the looks are reckoned."""
    got: dict[tuple[str, str, str], list[tuple[int, int, UUID]]] = defaultdict(list)
    for calls in evidence.calls.values():
        for call in calls:
            if call.took and call.user_id is not None and call.look is not None and _category(call).caps:
                # Between two readings its clock may have been set back.
                span = min(call.look.readings), max(call.look.readings), notification_of(call.delivery)
                got[call.tenant, call.user_id, call.category].append(span)
    for (tenant, user_id, category), spans in got.items():
        for cap in _CATEGORIES[category].caps:
            for begin, _, _ in spans:
                within = {id for first, last, id in spans if first >= begin and last - begin < cap.seconds * 1000}
                if len(within) > cap.count:
                    yield Violation(
                        Rule.CAPS, f"{tenant}/{user_id} got more than {cap.count} of {category} in {cap.seconds} s"
                    )
                    break


def all_heals(evidence: Evidence) -> Iterator[Violation]:
    """What is sent long after the last fault is taken at the first try."""
    for record in evidence.records.values():
        if msgspec.json.decode(record.notification.metadata)["n"] >= scenarios.AFTERWARDS:
            for event in record.events:
                if shown(event.attempt) > 1 or event.state is State.DEFERRED:
                    yield Violation(Rule.HEALS, f"{event.id} is {event.state.value} ({event.reason} {event.detail})")


async def occurrences_come_once(evidence: Evidence) -> list[Violation]:
    """As many notifications as the rule has occurrences, less those that were skipped; daily ones on different days."""
    found: list[Violation] = []
    sent: dict[tuple[str, int], list[int]] = defaultdict(list)
    for record in evidence.records.values():
        notification = record.notification
        number = msgspec.json.decode(notification.metadata)["n"]
        sent[notification.tenant, number].append(instant_of(notification.id))
    skipped: Counter[tuple[str, int]] = Counter()
    for tenant in scenarios.TENANTS:
        for recurrence in await evidence.world.store.recurrences.list(tenant, None, 1_000):
            number = msgspec.json.decode(recurrence.request)["metadata"]["n"]
            skipped[tenant, number] = recurrence.progress.skipped
    for change in evidence.world.scenario.changes:
        if isinstance(change, scenarios.Recurring):
            key = change.tenant, change.number
            came = len(sent[key])
            # One that was sent before a crash and missed after it counts as skipped as well.
            if came > change.times or came + skipped[key] < change.times:
                text = f"{change.body.decode()}: {came} came and {skipped[key]} were skipped of {change.times}"
                found.append(Violation(Rule.EACH_OCCURRENCE_ONCE, text))
            days = {datetime.fromtimestamp(at / 1000, zone(change.timezone)).date() for at in sent[key]}
            if change.dates and len(days) != came:
                text = f"{change.body.decode()}: {came} came on {len(days)} days"
                found.append(Violation(Rule.EACH_OCCURRENCE_ONCE, text))
    return found


async def the_books_balance(evidence: Evidence) -> list[Violation]:
    """Per tenant: the tally adds up to what was accepted, and nothing in it is in flight."""
    found: list[Violation] = []
    for tenant in scenarios.TENANTS:
        tallies = await evidence.world.store.history.tally(tenant)
        counted = sum(tally.count for tally in tallies if tally.channel is None)
        there = sum(record.notification.tenant == tenant for record in evidence.records.values())
        if counted != there:
            found.append(Violation(Rule.BALANCE, f"{tenant}: {there} notifications, and {counted} in the tally"))
    return found


def _objection(evidence: Evidence, call: Call) -> str | None:
    wishes, look = evidence.world.wishes, call.look
    if look is None:
        return "outside of any batch"
    notification = notification_of(call.delivery)
    if notification not in look.cancelled:
        return "nobody had asked whether it was cancelled"
    if wishes.cancelled.get(notification, float("inf")) <= look.cancelled[notification]:
        return "it was cancelled"
    expires_at = evidence.expires_at(call.delivery)
    if expires_at is not None and min(look.readings, default=0) >= expires_at:
        return f"it had expired at {expires_at}"
    address = Address(call.vendor.channel, call.to)
    if call.vendor.channel is not Channel.INAPP:
        asked = look.suppressed.get((call.tenant, address))
        if asked is None:
            return "nobody had asked for the suppression list"
        if wishes.is_barred(call.tenant, address, asked):
            return "the address was on the suppression list"
    return None if call.user_id is None else _refused_by_person(evidence, call)


def _refused_by_person(evidence: Evidence, call: Call) -> str | None:
    key = call.tenant, str(call.user_id)
    if call.look is None or key not in call.look.people:
        return "nobody had asked what the person wants"
    profile, preferences = evidence.world.wishes.of(key, call.look.people[key])
    if profile is None:
        return "the user was deleted"
    category = _category(call)
    refused = refusal(preferences, category, call.vendor.channel)
    if refused is not None:
        return f"the person had refused it ({refused.value})"
    if category.critical or preferences.quiet_hours is None:
        return None
    quiet = [wake_up(preferences.quiet_hours, profile.timezone, now) is not None for now in call.look.readings]
    return "the person's quiet hours" if quiet and all(quiet) else None


def _category(call: Call) -> Category:
    return _CATEGORIES.get(call.category) or Category(call.category)


def _places(calls: list[Call]) -> str:
    return ", ".join(
        f"{call.vendor.name} at {call.at:.3f} s by {call.process} (attempt {call.attempt})" for call in calls
    )
