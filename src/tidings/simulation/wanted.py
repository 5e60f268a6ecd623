"""Rules about people: their wishes are kept, nothing is suppressed without a reason, the content is right."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from uuid import UUID

import msgspec

from tidings.model.history import Event, NotificationRecord
from tidings.model.ids import notification_of, slot_of
from tidings.model.notification import Notification
from tidings.model.user import Address, Cap, Category, Profile
from tidings.model.vocabulary import Channel, Reason, State
from tidings.policy.preferences import refusal
from tidings.policy.quiet_hours import wake_up
from tidings.policy.routing import channel_of
from tidings.simulation import scenario as scenarios
from tidings.simulation.evidence import Evidence
from tidings.simulation.observers import Rule, Violation
from tidings.simulation.vendors import Call

CATEGORY_FRESH_S = 1.0
"""How long a process may use its cached version of a category."""
EVERYTHING = "*"
ROUNDED_MS = 1_000
"""How much earlier than its send time a notification may be sent by a right clock."""


def wishes_are_kept(evidence: Evidence) -> Iterator[Violation]:
    """Yields calls made without the necessary look-ups, or although their answers forbade the call."""
    for calls in evidence.calls.values():
        for call in calls:
            why = _objection(evidence, call)
            if why is not None:
                yield Violation(
                    Rule.WISHES,
                    f"{call.delivery} was offered to {call.vendor.name} at {call.at_s:.3f} s by {call.process}: {why}",
                )


def caps_are_kept(evidence: Evidence) -> Iterator[Violation]:
    """Yields people who got more notifications within the time of a cap than it allows.

    When a notification counted is not known exactly, so only windows that certainly contain too many are reported.
    """
    got: dict[tuple[str, str, str], list[tuple[int, int, UUID]]] = defaultdict(list)
    for calls in evidence.calls.values():
        for call in calls:
            notification = evidence.notifications.get(notification_of(call.delivery))
            if call.took and call.reads is not None and notification is not None:
                # Minimum and maximum, because the clock may have been set back between two readings.
                span = min(call.reads.readings), max(call.reads.readings), notification_of(call.delivery)
                person = f"{_person(notification)}{_incarnation(evidence, call)}"
                for category in _counting_categories(evidence, call):
                    got[call.tenant, person, category.name].append(span)
    for (tenant, person, name), spans in got.items():
        for cap in evidence.world.wishes.categories(tenant, name)[0].caps:
            for begin, _, _ in spans:
                within = {id for first, last, id in spans if first >= begin and last - begin < cap.seconds * 1000}
                if len(within) > cap.count:
                    yield Violation(
                        Rule.CAPS, f"{tenant}/{person} got more than {cap.count} of {name} in {cap.seconds} s"
                    )
                    break


def nothing_is_withheld(evidence: Evidence) -> Iterator[Violation]:
    """Yields suppressed deliveries for whose reason there is no evidence about this person."""
    for record in evidence.records.values():
        for event in record.events:
            if slot_of(event.id) and event.state is State.SUPPRESSED and not _has_reason(evidence, record, event):
                yield Violation(
                    Rule.WITHHELD, f"{event.id} is suppressed: {event.reason} ({event.detail}), but that was never so"
                )


def what_is_said_was_asked(evidence: Evidence) -> Iterator[Violation]:
    """Yields calls whose content is not the notification's, in any language of the template."""
    for calls in evidence.calls.values():
        for call in calls:
            notification = evidence.notifications.get(notification_of(call.delivery))
            if notification is None:
                continue  # not in history: Rule.KEPT reports it
            expected = [scenarios.LITERAL_TEXT]
            if notification.template is not None:
                patched = evidence.world.wishes.patched.get(notification.id)
                number = msgspec.json.decode(notification.metadata)["n"] if patched is None else patched.prints
                expected = scenarios.template_texts(number)
            if call.first_text not in expected:
                yield Violation(Rule.SAID, f"{call.delivery} said {call.first_text!r} instead of one of {expected}")


def nothing_is_too_early(evidence: Evidence) -> Iterator[Violation]:
    """Yields calls made before the send time that was requested, or to which it was changed."""
    scenario = evidence.world.scenario
    most_ms = scenario.weather.skew_ms + ROUNDED_MS
    for calls in evidence.calls.values():
        for call in calls:
            notification = evidence.notifications.get(notification_of(call.delivery))
            if notification is None:
                continue  # not in history: Rule.KEPT reports it
            patched = evidence.world.wishes.patched.get(notification.id)
            send_at = notification.send_at if patched is None else patched.send_at
            called_at = scenario.start_at + int(call.at_s * 1000)
            if send_at is not None and called_at + most_ms < send_at:
                text = f"{call.delivery} was offered to {call.vendor.name} {send_at - called_at} ms too early"
                yield Violation(Rule.IN_TIME, text)


def _objection(evidence: Evidence, call: Call) -> str | None:
    wishes, reads = evidence.world.wishes, call.reads
    if reads is None:
        return "the call belongs to no batch"
    notification = notification_of(call.delivery)
    if notification not in reads.cancelled:
        return "cancellations had not been looked up"
    if wishes.cancelled.get(notification, float("inf")) <= reads.cancelled[notification]:
        return "it was cancelled"
    expires_at = evidence.expires_at(call.delivery)
    if expires_at is not None and min(reads.readings, default=0) >= expires_at:
        return f"it had expired at {expires_at}"
    address = Address(call.vendor.channel, call.to)
    if call.vendor.channel is not Channel.INAPP:
        looked_up_at = reads.suppressed.get((call.tenant, address))
        if looked_up_at is None:
            return "the suppression list had not been looked up"
        if wishes.is_suppressed(call.tenant, address, looked_up_at):
            return "the address was on the suppression list"
    return None if call.user_id is None else _refused_by_person(evidence, call)


def _refused_by_person(evidence: Evidence, call: Call) -> str | None:
    key = call.tenant, str(call.user_id)
    if call.reads is None or key not in call.reads.people:
        return "the person had not been looked up"
    profile, preferences = evidence.world.wishes.person_at(key, call.reads.people[key])
    if profile is None:
        return "the user was deleted"
    if not _is_address_of(call, profile):
        return "it was not the person's address any more"
    versions = evidence.world.wishes.categories(
        call.tenant, call.category, call.reads.since - CATEGORY_FRESH_S, call.at_s
    )
    if all(refusal(preferences, category, call.vendor.channel) for category in versions):
        return "the person had refused it"
    if any(category.critical for category in versions) or preferences.quiet_hours is None:
        return None
    quiet = [wake_up(preferences.quiet_hours, profile.timezone, now) is not None for now in call.reads.readings]
    return "these were the person's quiet hours" if quiet and all(quiet) else None


def _is_address_of(call: Call, profile: Profile) -> bool:
    if call.vendor.channel is Channel.INAPP:
        return call.to == call.user_id
    return call.to in (profile.email, profile.phone, *profile.devices)


def _counting_categories(evidence: Evidence, call: Call) -> Iterator[Category]:
    """The categories whose caps count the call."""
    wishes = evidence.world.wishes
    own = wishes.categories(call.tenant, call.category)
    if own[0].caps:
        yield own[0]
    if not any(category.critical for category in own):
        yield from (category for category in wishes.categories(call.tenant, EVERYTHING)[:1] if category.caps)


def _person(notification: Notification) -> str:
    to = notification.to
    return f"user {to.user_id}" if to.user_id is not None else f"inline {to.key}"


def _incarnation(evidence: Evidence, call: Call) -> str:
    """A suffix for the incarnation of the user that the call is for: caps count each incarnation apart."""
    key = call.tenant, str(call.user_id)
    if call.user_id is None or call.reads is None or key not in call.reads.people:
        return ""
    number = evidence.world.wishes.incarnation(key, call.reads.people[key])
    return f" (no. {number + 1})" if number else ""


def _has_reason(evidence: Evidence, record: NotificationRecord, event: Event) -> bool:
    """Whether the reason for which a delivery was suppressed was true at any time of the run."""
    notification, wishes = record.notification, evidence.world.wishes
    channel = channel_of(event.id)
    key = notification.tenant, notification.to.user_id or ""
    versions = wishes.versions(key)
    match event.reason:
        case Reason.OPTED_OUT | Reason.MUTED:
            categories = wishes.categories(notification.tenant, notification.category)
            return any(refusal(wanted, category, channel) for _, wanted in versions for category in categories)
        case Reason.QUIET_HOURS:
            return any(wanted.quiet_hours is not None for _, wanted in versions)
        case Reason.USER_DELETED:
            return any(profile is None for profile, _ in versions)
        case Reason.ADDRESS_CHANGED:
            profiles = [profile for profile, _ in versions if profile is not None]
            return any(event.address not in (profile.email, profile.phone, *profile.devices) for profile in profiles)
        case Reason.ADDRESS_SUPPRESSED:
            address = Address(channel, event.address or "")
            return wishes.was_suppressed(notification.tenant, address) or any(
                (notification.tenant, address) in vendor.suppressing for vendor in evidence.world.vendors.values()
            )
        case Reason.CAPPED:
            return _cap_may_be_reached(evidence, notification)
        case Reason.DUPLICATE:
            return _has_duplicate(evidence, record, event)
    return True


def _cap_may_be_reached(evidence: Evidence, notification: Notification) -> bool:
    """Whether the person was sent as many other notifications as some cap allows."""
    wishes, person = evidence.world.wishes, _person(notification)
    others = [
        other
        for other in evidence.notifications.values()
        if other.tenant == notification.tenant and other.id != notification.id and _person(other) == person
    ]
    same = sum(other.category == notification.category for other in others)
    return _reaches(same, wishes.categories(notification.tenant, notification.category)) or _reaches(
        len(others), wishes.categories(notification.tenant, EVERYTHING)
    )


def _reaches(count: int, categories: Sequence[Category]) -> bool:
    caps: list[Cap] = [cap for category in categories for cap in category.caps]
    return any(count >= cap.count for cap in caps)


def _has_duplicate(evidence: Evidence, record: NotificationRecord, event: Event) -> bool:
    """Whether another delivery of the tenant says the same to the same address."""
    channel = channel_of(event.id)
    for other in evidence.notifications.values():
        if _content_of(other, channel) != _content_of(record.notification, channel):
            continue
        if other.id != record.notification.id and other.id in evidence.aside:
            return True  # the deliveries of the other one may be aside, too
        events_of_other = evidence.records[other.id].events
        if any(twin.id != event.id and slot_of(twin.id) and twin.address == event.address for twin in events_of_other):
            return True
    return False


def _content_of(notification: Notification, channel: Channel) -> tuple[object, ...]:
    content = notification.template if notification.content is None else getattr(notification.content, channel.value)
    return notification.tenant, content, notification.data
