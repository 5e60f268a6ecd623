"""Whether people got what they wanted, and as it was asked; and whether they did not get the rest for a reason."""

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

BELIEVED_S = 1.0
"""Seconds for which a process may go by what it knew of a category."""
EVERYTHING = "*"


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
            notification = evidence.notifications.get(notification_of(call.delivery))
            if call.took and call.look is not None and notification is not None:
                # Between two readings its clock may have been set back.
                span = min(call.look.readings), max(call.look.readings), notification_of(call.delivery)
                person = f"{_person(notification)}{_incarnation(evidence, call)}"
                for category in _capping(evidence, call):
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
    """Who did not get something had refused it, or had had as much as they may get: nobody else's doing counts."""
    for record in evidence.records.values():
        for event in record.events:
            if slot_of(event.id) and event.state is State.SUPPRESSED and not _has_reason(evidence, record, event):
                yield Violation(Rule.WITHHELD, f"{event.id} is {event.reason} ({event.detail}), for no reason")


def what_is_said_was_asked(evidence: Evidence) -> Iterator[Violation]:
    """A vendor was told what this notification says, in a language that its person ever had."""
    for calls in evidence.calls.values():
        for call in calls:
            notification = evidence.notifications.get(notification_of(call.delivery))
            if notification is None:
                continue  # it was offered, and is nowhere: that is another rule's
            expected = [scenarios.LITERAL]
            if notification.template is not None:
                expected = scenarios.texts(msgspec.json.decode(notification.metadata)["n"])
            if call.said not in expected:
                yield Violation(Rule.SAID, f"{call.delivery} said {call.said!r} instead of one of {expected}")


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
    if not _is_present(call, profile):
        return "it was not the person's address any more"
    believed = evidence.world.wishes.categories(call.tenant, call.category, call.look.since - BELIEVED_S, call.at)
    if all(refusal(preferences, category, call.vendor.channel) for category in believed):
        return "the person had refused it"
    if any(category.critical for category in believed) or preferences.quiet_hours is None:
        return None
    quiet = [wake_up(preferences.quiet_hours, profile.timezone, now) is not None for now in call.look.readings]
    return "the person's quiet hours" if quiet and all(quiet) else None


def _is_present(call: Call, profile: Profile) -> bool:
    if call.vendor.channel is Channel.INAPP:
        return call.to == call.user_id
    return call.to in (profile.email, profile.phone, *profile.devices)


def _capping(evidence: Evidence, call: Call) -> Iterator[Category]:
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
    """Which of those who had the user's id was asked about; what one who was deleted got counts for nobody else."""
    key = call.tenant, str(call.user_id)
    if call.user_id is None or call.look is None or key not in call.look.people:
        return ""
    number = evidence.world.wishes.incarnation(key, call.look.people[key])
    return f" (no. {number + 1})" if number else ""


def _has_reason(evidence: Evidence, record: NotificationRecord, event: Event) -> bool:
    """Whether anything that ever was can be the reason for which a delivery was suppressed."""
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
            return any(event.address not in (one.email, one.phone, *one.devices) for one in profiles)
        case Reason.ADDRESS_SUPPRESSED:
            address = Address(channel, event.address or "")
            return wishes.was_barred(notification.tenant, address) or any(
                (notification.tenant, address) in vendor.barring for vendor in evidence.world.vendors.values()
            )
        case Reason.CAPPED:
            return _is_over(evidence, notification)
        case Reason.DUPLICATE:
            return _has_twin(evidence, record, event)
    return True


def _is_over(evidence: Evidence, notification: Notification) -> bool:
    """Whether the person was meant to get as many others as some cap permits."""
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


def _has_twin(evidence: Evidence, record: NotificationRecord, event: Event) -> bool:
    """Whether another delivery of the tenant says the same to the same address."""
    channel = channel_of(event.id)
    for other in evidence.notifications.values():
        if _says(other, channel) != _says(record.notification, channel):
            continue
        if other.id != record.notification.id and other.id in evidence.aside:
            return True  # where it went may be aside as well
        twins = evidence.records[other.id].events
        if any(twin.id != event.id and slot_of(twin.id) and twin.address == event.address for twin in twins):
            return True
    return False


def _says(notification: Notification, channel: Channel) -> tuple[object, ...]:
    said = notification.template if notification.content is None else getattr(notification.content, channel.value)
    return notification.tenant, said, notification.data
