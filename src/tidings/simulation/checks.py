"""What must hold at the end of every run, whatever befell it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import datetime
from itertools import pairwise
from uuid import UUID

import msgspec

from tidings.model.history import Event
from tidings.model.ids import instant_of, notification_of, slot_of
from tidings.model.vocabulary import Channel, Reason, State
from tidings.policy.inquiry import LONGEST_PAUSE_MS
from tidings.policy.retry import THROTTLED
from tidings.policy.routing import channel_of
from tidings.policy.transitions import RESTING, rank, shown
from tidings.policy.wall_clock import zone
from tidings.simulation import scenario as scenarios
from tidings.simulation import wanted
from tidings.simulation.evidence import Evidence, category_of, gather, places
from tidings.simulation.observers import Rule, Violation
from tidings.simulation.processes import Process
from tidings.simulation.scenario import longest_pause_s
from tidings.simulation.vendors import Vendor
from tidings.simulation.world import INBOX, World

TAKEN = frozenset({State.SENT, State.DELIVERED})
HELD = frozenset({Reason.PROVIDER_OPEN, Reason.PROVIDER_FAILING, Reason.PROVIDER_BUSY, THROTTLED})
"""The reasons of what waits for a provider."""


async def violations(world: World) -> list[Violation]:
    """Everything that does not hold, in sentences."""
    evidence, found = await gather(world)
    found += world.complaints
    for vendor in world.vendors.values():
        found += [Violation(Rule.PAUSES, text) for text in vendor.disregarded]
    for check in (
        nothing_is_lost,
        answers_agree,
        nothing_is_doubled,
        history_tells_the_truth,
        doubts_are_founded,
        wanted.wishes_are_kept,
        wanted.caps_are_kept,
        wanted.nothing_is_withheld,
        wanted.what_is_said_was_asked,
        waiting_ends,
        all_heals,
    ):
        found += check(evidence)
    found += await occurrences_come_once(evidence)
    return found + await the_books_balance(evidence)


def nothing_is_lost(evidence: Evidence) -> Iterator[Violation]:
    """Every id that a client holds is in history, and everything in history has come to rest."""
    for id, tenant in evidence.world.clients.ledger.told().items():
        record = evidence.records.get(id)
        if id in evidence.aside:
            continue
        if record is None or record.notification.tenant != tenant:
            yield Violation(Rule.KEPT, f"{id} was accepted and is lost")
    for id, record in evidence.records.items():
        states = [state for delivery, state in evidence.states.items() if notification_of(delivery) == id]
        own = max(
            (event for event in record.events if event.id == id),
            key=lambda event: rank(event.state, event.attempt),
            default=None,
        )
        if id not in evidence.aside and not states and (own is None or own.state not in RESTING):
            yield Violation(Rule.RESTS, f"{id} has no delivery and does not rest")
    for delivery, state in evidence.states.items():
        if state not in RESTING and notification_of(delivery) not in evidence.aside:
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
            least -= sum(id in evidence.aside and id not in evidence.records for id in ids if id is not None)
            if not least <= count <= most:
                yield Violation(
                    Rule.MADE_ONCE,
                    f"number {number} of request {asked.numbers} is there {count} times, not {least} to {most}",
                )


def nothing_is_doubled(evidence: Evidence) -> Iterator[Violation]:
    """Nobody gets the same delivery twice, but in a category that allows it."""
    for delivery, calls in evidence.calls.items():
        if category_of(calls[0]).allow_doubles:
            continue
        takes = [call for call in calls if call.took]
        copied = delivery in evidence.copied
        if len(takes) > 1 + evidence.replays[delivery] and calls[0].vendor.channel is not Channel.INAPP:
            yield Violation(
                Rule.COPIES if copied else Rule.SENT_ONCE, f"{delivery} was sent {len(takes)} times: {places(takes)}"
            )
        tried = Counter(call.attempt for call in calls if not (call.vendor.idempotent or call.declined))
        for attempt, count in tried.items():
            if count > 1:
                yield Violation(
                    Rule.COPIES if copied else Rule.TRIED_ONCE,
                    f"{delivery}: attempt {attempt} may have been taken {count} times: {places(calls)}",
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
            and notification_of(delivery) not in evidence.aside
            and not _ended_by_another_copy(evidence, delivery)
        ):
            yield Violation(
                Rule.TAKEN_IS_SENT, f"{delivery} is {state.value}, and was taken: {places(evidence.calls[delivery])}"
            )
    for delivery in evidence.calls:
        if delivery not in evidence.states and notification_of(delivery) not in evidence.aside:
            yield Violation(Rule.KEPT, f"{delivery} was offered, and is not in history")


def _ended_by_another_copy(evidence: Evidence, delivery: UUID) -> bool:
    """Whether two copies made one attempt at once: one was taken, and is recorded as sent, and one ended otherwise.

    Only where a repetition does no harm do copies go at once. Neither can know of the other, so each tells its own
    ending; the ending that is further is the state. Nothing hides what was taken: it is a fact, and is not replayed.
    """
    calls = evidence.calls[delivery]
    if not (category_of(calls[0]).allow_doubles or all(call.vendor.idempotent for call in calls)):
        return False
    taken = {call.attempt for call in calls if call.took or call.repeated}
    made = Counter(call.attempt for call in calls)
    return all((delivery, attempt) in evidence.sent and made[attempt] > 1 for attempt in taken)


def doubts_are_founded(evidence: Evidence) -> Iterator[Violation]:
    """What is uncertain was offered to a vendor, or was one of the calls that were made, or about to be made.

    Of a request that got lost on its way no vendor knows, and its process cannot tell.
    """
    world = evidence.world
    vendors = list(world.vendors.values())
    ways = [world.inbox_departures, *(vendor.departures for vendor in vendors)]
    about_to_be: Counter[tuple[Process, Channel]] = Counter()
    for delivery in evidence.uncertain - evidence.calls.keys():
        if any(way.was_lost(delivery) for way in ways):
            continue
        # Who ends its claim by itself knows what it had asked: only a death, or a lost lease, leaves what it had begun.
        begun_by = [claim.process for claim in world.broker.begun.get(delivery, ()) if not claim.is_over]
        if not begun_by:
            yield Violation(Rule.DOUBT_IS_OFFERED, f"{delivery} is uncertain, and nobody was ever asked to send it")
        for process in begun_by:
            about_to_be[process, channel_of(delivery)] += 1
    for (process, channel), count in about_to_be.items():
        traits = [INBOX, *(vendor.traits for vendor in vendors)]
        most = sum(one.concurrency * one.batch_size for one in traits if one.channel is channel)
        if count > most:
            text = f"{process.name} had begun {count} {channel.value} deliveries that it offered to nobody"
            yield Violation(Rule.DOUBT_IS_OFFERED, text)


def waiting_ends(evidence: Evidence) -> Iterator[Violation]:
    """What waits for a provider goes on when one that may take it is well, at the next look at the latest."""
    scenario = evidence.world.scenario
    patience_ms = round((scenarios.RECOVERY + longest_pause_s(scenario.delivering)) * 1000)
    for record in evidence.records.values():
        facts: dict[UUID, list[Event]] = defaultdict(list)
        for event in record.events:
            if slot_of(event.id):
                facts[event.id].append(event)
        for delivery, events in facts.items():
            events.sort(key=lambda event: (rank(event.state, event.attempt), event.step))
            known_at = scenario.start + round(_known_from(evidence, delivery) * 1000)
            for held, following in pairwise(events):
                since = max(held.at, known_at)
                if following.reason == Reason.SWEPT and notification_of(delivery) in evidence.aside:
                    continue  # it was not waiting: it had been put aside, until the sweeper found that it was missing
                if held.state is State.DEFERRED and held.reason in HELD and following.at > since + patience_ms:
                    waited = (following.at - since) // 1000
                    text = f"{delivery} ({held.reason}) went on {waited} s after a provider was well"
                    yield Violation(Rule.WAITING_ENDS, text)


def _known_from(evidence: Evidence, delivery: UUID) -> float:
    """The second by which it was noticed, at the latest, that a provider which may take the delivery is well.

    All of them, where one may have taken it: only that one can tell.
    """
    calls = evidence.calls.get(delivery, ())
    refused = {call.vendor.name for call in calls if call.refused}
    vendors = [vendor for vendor in evidence.world.vendors.values() if vendor.traits.channel is channel_of(delivery)]
    known = [_well_from(evidence, vendor) for vendor in vendors if vendor.traits.name not in refused]
    unheard = any(vendor.unheard[delivery] for vendor in vendors)
    in_doubt = unheard or any(not (call.took or call.declined) for call in calls)
    if in_doubt or not known:
        return max((_well_from(evidence, vendor) for vendor in vendors), default=0.0)
    return min(known)


def _well_from(evidence: Evidence, vendor: Vendor) -> float:
    # It is asked within a minute; where it said in the storm that it was well and was not, after as long again.
    scenario = evidence.world.scenario
    until_asked_s = LONGEST_PAUSE_MS / 1000 + scenario.storm
    return max(scenario.storm, vendor.down_until) + min(until_asked_s, scenario.delivering.outage_pause_s)


def all_heals(evidence: Evidence) -> Iterator[Violation]:
    """What is sent long after the last fault is taken at the first try."""
    for record in evidence.records.values():
        if msgspec.json.decode(record.notification.metadata)["n"] in range(scenarios.AFTERWARDS, scenarios.NOISE):
            for event in record.events:
                if shown(event.attempt) > 1 or event.state is State.DEFERRED:
                    yield Violation(Rule.HEALS, f"{event.id} is {event.state.value} ({event.reason} {event.detail})")


async def occurrences_come_once(evidence: Evidence) -> list[Violation]:
    """As many notifications as the rule has occurrences, less those that were skipped; daily ones on different days.

    One that a port broke at twice may be aside before it was recorded: it came, too.
    """
    found: list[Violation] = []
    sent: dict[tuple[str, int], list[int]] = defaultdict(list)
    for notification in evidence.notifications.values():
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
