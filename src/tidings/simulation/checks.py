"""The rules, checked at the end of each run."""

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
from tidings.policy.transitions import RESTING, number_in_life, rank
from tidings.policy.wall_clock import zone
from tidings.simulation import scenario as scenarios
from tidings.simulation import wanted
from tidings.simulation.evidence import Evidence, category_of, describe_calls, gather
from tidings.simulation.observers import Rule, Violation
from tidings.simulation.processes import Process
from tidings.simulation.scenario import longest_pause_s
from tidings.simulation.vendors import Vendor
from tidings.simulation.world import INBOX, World

TAKEN_STATES = frozenset({State.SENT, State.DELIVERED})
WAITING_REASONS = frozenset({Reason.PROVIDER_OPEN, Reason.PROVIDER_FAILING, Reason.PROVIDER_BUSY, THROTTLED})
"""Why a delivery waits for a provider."""


async def violations(world: World) -> list[Violation]:
    """All violations of the run, with those that the observers noted on the way."""
    evidence, found = await gather(world)
    found += world.violations
    for vendor in world.vendors.values():
        found += [Violation(Rule.PAUSES, text) for text in vendor.ignored_pauses]
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
        wanted.nothing_is_too_early,
        waiting_ends,
        all_heals,
    ):
        found += check(evidence)
    found += await occurrences_come_once(evidence)
    return found + await the_books_balance(evidence)


def nothing_is_lost(evidence: Evidence) -> Iterator[Violation]:
    """Yields each id that a client got and history lacks, and all that does not rest in the end."""
    for id, tenant in evidence.world.clients.ledger.accepted_ids().items():
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
    """Yields requests whose answers differ for one key, or that made too few or too many notifications."""
    ledger = evidence.world.clients.ledger
    made = Counter(
        (record.notification.tenant, msgspec.json.decode(record.notification.metadata)["n"])
        for record in evidence.records.values()
    )
    for request in evidence.world.scenario.requests:
        for number in request.numbers:
            told = ledger.ids_of(request, number)
            ids = told - {None}
            if request.key is not None and len(ids) > 1:
                yield Violation(Rule.ANSWERED_ONCE, f"number {number} of request {request.numbers} got {len(ids)} ids")
            least = len(ids)
            most = 1 if request.key is not None else ledger.tries.get(request, 0)
            if told == {None} and not request.sent_twice and most == ledger.tries[request] == 1:
                most = 0  # with several tries, an earlier one that the client gave up on may have succeeded
            count = made[request.tenant, number]
            least -= sum(id in evidence.aside and id not in evidence.records for id in ids if id is not None)
            if not least <= count <= most:
                yield Violation(
                    Rule.MADE_ONCE,
                    f"number {number} of request {request.numbers} is in history {count} times, not {least} to {most}",
                )


def nothing_is_doubled(evidence: Evidence) -> Iterator[Violation]:
    """Yields deliveries that were sent twice, or may have been, in a category that does not allow doubles."""
    for delivery, calls in evidence.calls.items():
        if category_of(calls[0]).allow_doubles:
            continue
        takes = [call for call in calls if call.took]
        copied = delivery in evidence.copied
        if len(takes) > 1 + evidence.replays[delivery] and calls[0].vendor.channel is not Channel.INAPP:
            yield Violation(
                Rule.COPIES if copied else Rule.SENT_ONCE,
                f"{delivery} was sent {len(takes)} times: {describe_calls(takes)}",
            )
        tried = Counter(call.attempt for call in calls if not (call.vendor.idempotent or call.declined))
        for attempt, count in tried.items():
            if count > 1:
                yield Violation(
                    Rule.COPIES if copied else Rule.TRIED_ONCE,
                    f"{delivery}: attempt {attempt} may have been taken {count} times: {describe_calls(calls)}",
                )


def history_tells_the_truth(evidence: Evidence) -> Iterator[Violation]:
    """Yields deliveries recorded as sent that no vendor took, and taken ones recorded as neither sent nor uncertain."""
    for delivery, state in evidence.states.items():
        took = any(call.took or call.repeated for call in evidence.calls.get(delivery, ()))
        bounced = state is State.FAILED and took
        if state in TAKEN_STATES and not took:
            yield Violation(Rule.SENT_IS_TAKEN, f"{delivery} is {state.value}, but no vendor took it")
        if (
            took
            and state not in TAKEN_STATES
            and not bounced
            and delivery not in evidence.uncertain
            and not evidence.replays[delivery]
            and notification_of(delivery) not in evidence.aside
            and not _ended_by_another_copy(evidence, delivery)
        ):
            yield Violation(
                Rule.TAKEN_IS_SENT,
                f"{delivery} is {state.value}, but was taken: {describe_calls(evidence.calls[delivery])}",
            )
    for delivery in evidence.calls:
        if delivery not in evidence.states and notification_of(delivery) not in evidence.aside:
            yield Violation(Rule.KEPT, f"{delivery} was offered, but is not in history")


def _ended_by_another_copy(evidence: Evidence, delivery: UUID) -> bool:
    """Whether two copies made the same attempt at once: one was taken and recorded as sent, the other ended otherwise.

    Copies are sent at once only where a repetition does no harm. Neither knows of the other, so each records its own
    result; the one that is further becomes the state. The fact `sent` stays in history: the delivery is not replayed.
    """
    calls = evidence.calls[delivery]
    if not (category_of(calls[0]).allow_doubles or all(call.vendor.idempotent for call in calls)):
        return False
    taken = {call.attempt for call in calls if call.took or call.repeated}
    made = Counter(call.attempt for call in calls)
    return all((delivery, attempt) in evidence.sent and made[attempt] > 1 for attempt in taken)


def doubts_are_founded(evidence: Evidence) -> Iterator[Violation]:
    """Yields uncertain deliveries that no process had offered or was about to offer.

    A delivery may be uncertain although no vendor knows it: its request was lost in transit, which the process
    cannot tell from a lost answer, or its process died after marking it begun. A process may have begun at most as many
    deliveries as its calls can hold.
    """
    world = evidence.world
    vendors = list(world.vendors.values())
    ways = [world.inbox_departures, *(vendor.departures for vendor in vendors)]
    about_to_be: Counter[tuple[Process, Channel]] = Counter()
    for delivery in evidence.uncertain - evidence.calls.keys():
        if any(way.was_lost(delivery) for way in ways):
            continue
        # A process that ended its claim knew which calls it had made. Only a death or a lost lease leaves doubt.
        begun_by = [claim.process for claim in world.broker.begun.get(delivery, ()) if not claim.is_over]
        if not begun_by:
            yield Violation(Rule.DOUBT_IS_OFFERED, f"{delivery} is uncertain, but no process was about to send it")
        for process in begun_by:
            about_to_be[process, channel_of(delivery)] += 1
    for (process, channel), count in about_to_be.items():
        traits = [INBOX, *(vendor.traits for vendor in vendors)]
        most = sum(vendor.concurrency * vendor.batch_size for vendor in traits if vendor.channel is channel)
        if count > most:
            text = f"{process.name} had begun {count} {channel.value} deliveries and offered them to no vendor"
            yield Violation(Rule.DOUBT_IS_OFFERED, text)


def waiting_ends(evidence: Evidence) -> Iterator[Violation]:
    """Yields deliveries that waited too long for a provider, though one that may take them was well."""
    scenario = evidence.world.scenario
    patience_ms = round((scenarios.RECOVERY_S + longest_pause_s(scenario.delivering)) * 1000)
    for record in evidence.records.values():
        facts: dict[UUID, list[Event]] = defaultdict(list)
        for event in record.events:
            if slot_of(event.id):
                facts[event.id].append(event)
        for delivery, events in facts.items():
            events.sort(key=lambda event: (rank(event.state, event.attempt), event.step))
            known_at = scenario.start_at + round(_recovery_noticed_s(evidence, delivery) * 1000)
            for held, following in pairwise(events):
                since = max(held.at, known_at)
                if following.reason == Reason.SWEPT and notification_of(delivery) in evidence.aside:
                    continue  # the item was not waiting but aside, until the audit swept it
                waits = held.state is State.DEFERRED and held.reason in WAITING_REASONS
                if waits and following.at > since + patience_ms:
                    waited = (following.at - since) // 1000
                    text = f"{delivery} ({held.reason}) went on only {waited} s after a provider was well"
                    yield Violation(Rule.WAITING_ENDS, text)


def _recovery_noticed_s(evidence: Evidence, delivery: UUID) -> float:
    """The virtual second by which the system must know that a provider which may take the delivery is well.

    If some provider may have taken it already, only that one may be asked again. The evidence does not tell which one,
    so this is the time by which all of them are well.
    """
    calls = evidence.calls.get(delivery, ())
    refused = {call.vendor.name for call in calls if call.refused}
    vendors = [vendor for vendor in evidence.world.vendors.values() if vendor.traits.channel is channel_of(delivery)]
    known = [_well_from_s(evidence, vendor) for vendor in vendors if vendor.traits.name not in refused]
    unanswered = any(vendor.unanswered[delivery] for vendor in vendors)
    in_doubt = unanswered or any(not (call.took or call.declined) for call in calls)
    if in_doubt or not known:
        return max((_well_from_s(evidence, vendor) for vendor in vendors), default=0.0)
    return min(known)


def _well_from_s(evidence: Evidence, vendor: Vendor) -> float:
    # The provider is asked every LONGEST_PAUSE_MS. If it falsely said in the storm that it was well, the next question
    # comes later, by at most the length of the storm.
    scenario = evidence.world.scenario
    until_asked_s = LONGEST_PAUSE_MS / 1000 + scenario.storm_s
    return max(scenario.storm_s, vendor.down_until) + min(until_asked_s, scenario.delivering.outage_pause_s)


def all_heals(evidence: Evidence) -> Iterator[Violation]:
    """Yields requests sent long after the last fault that needed a second try or had to wait."""
    for record in evidence.records.values():
        if msgspec.json.decode(record.notification.metadata)["n"] in range(
            scenarios.FIRST_AFTERWARDS, scenarios.FIRST_NOISE
        ):
            for event in record.events:
                if number_in_life(event.attempt) > 1 or event.state is State.DEFERRED:
                    yield Violation(Rule.HEALS, f"{event.id} is {event.state.value} ({event.reason} {event.detail})")


async def occurrences_come_once(evidence: Evidence) -> list[Violation]:
    """Recurrences that sent too few or too many notifications, or two on one day though they are daily.

    Skipped occurrences count as accounted for. So do notifications put aside before they were recorded.
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
            sent_count = len(sent[key])
            # An occurrence may count twice: sent before a crash, and skipped as missed after it.
            if sent_count > change.times or sent_count + skipped[key] < change.times:
                text = f"{change.body.decode()}: {sent_count} sent and {skipped[key]} skipped of {change.times}"
                found.append(Violation(Rule.EACH_OCCURRENCE_ONCE, text))
            days = {datetime.fromtimestamp(at / 1000, zone(change.timezone)).date() for at in sent[key]}
            if change.dates and len(days) != sent_count:
                text = f"{change.body.decode()}: {sent_count} sent on {len(days)} days"
                found.append(Violation(Rule.EACH_OCCURRENCE_ONCE, text))
    return found


async def the_books_balance(evidence: Evidence) -> list[Violation]:
    """Tenants whose tally does not add up to the number of their notifications."""
    found: list[Violation] = []
    for tenant in scenarios.TENANTS:
        tallies = await evidence.world.store.history.tally(tenant)
        counted = sum(tally.count for tally in tallies if tally.channel is None)
        there = sum(record.notification.tenant == tenant for record in evidence.records.values())
        if counted != there:
            found.append(Violation(Rule.BALANCE, f"{tenant}: {there} notifications, and {counted} in the tally"))
    return found
