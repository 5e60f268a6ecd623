"""Dead letters and replays as the API shows them. Times are RFC 3339, UTC."""

from __future__ import annotations

import msgspec
from msgspec import Struct

from tidings.model.ids import DELIVERY_PREFIX, NOTIFICATION_PREFIX, REPLAY_PREFIX, to_text
from tidings.model.letters import DeadLetter, LetterFilter, Replay, ReplayState
from tidings.model.vocabulary import Channel, State
from tidings.policy.letters import WHY, Obstacle, address_of
from tidings.policy.routing import channel_of
from tidings.policy.transitions import number_in_life
from tidings.report.notifications import AttemptView, rfc3339, view


class LetterView(Struct, frozen=True, kw_only=True):
    """A delivery that ended without success: its address, and the result of its last attempt.

    `obstacle` says in one word why it cannot be replayed, `why` in a sentence; both are null if it can.
    """

    id: str
    notification_id: str
    state: State
    channel: Channel
    address: str
    provider: str
    reason: str
    detail: str
    attempt: int
    ended_at: str
    accepted_at: str
    user_id: str | None
    category: str
    template: str | None
    replayable: bool
    obstacle: Obstacle | None
    why: str | None


class LetterNotification(Struct, frozen=True, kw_only=True):
    """The notification that a dead letter belongs to."""

    id: str
    state: State
    user_id: str | None
    category: str
    priority: str
    template: str | None
    template_version: int | None
    expires_at: str | None
    metadata: msgspec.Raw


class LetterDetail(LetterView, frozen=True, kw_only=True):
    """A dead letter with all of its attempts and its notification."""

    attempts: list[AttemptView]
    notification: LetterNotification


class FilterView(Struct, frozen=True, omit_defaults=True):
    """Which dead letters: the ones that match all given fields. Without fields, all that are `dead` or `failed`."""

    state: State | None = None
    channel: Channel | None = None
    category: str | None = None
    provider: str | None = None
    reason: str | None = None
    user_id: str | None = None
    since: str | None = None
    until: str | None = None
    delivery_id: str | None = None


class AskedBy(Struct, frozen=True):
    """The API key that asked for a replay."""

    key_id: str
    key_prefix: str


class ReplayView(Struct, frozen=True):
    """Dead letters that are sent again.

    `expected` is how many matched at the time of the request (null: too many to count), `found` how many it has found.
    Of these `replayed` were given to their queue again and the others `skipped`, by reason.
    """

    id: str
    state: ReplayState
    filter: FilterView
    per_second: int
    expected: int | None
    found: int
    replayed: int
    skipped: dict[str, int]
    asked_by: AskedBy
    created_at: str
    started_at: str | None
    finished_at: str | None


def letter_view(letter: DeadLetter, obstacle: Obstacle | None) -> LetterView:
    """The dead letter as people read it."""
    return LetterView(**_fields(letter, obstacle))  # type: ignore[arg-type]  # each field has its own type


def letter_detail(letter: DeadLetter, obstacle: Obstacle | None) -> LetterDetail:
    """The dead letter with its attempts and its notification."""
    notification = view(letter.record)
    id = to_text(DELIVERY_PREFIX, letter.id)
    return LetterDetail(
        **_fields(letter, obstacle),  # type: ignore[arg-type]  # each field has its own type
        attempts=next(delivery.attempts for delivery in notification.deliveries if delivery.id == id),
        notification=LetterNotification(
            id=notification.id,
            state=notification.state,
            user_id=notification.user_id,
            category=notification.category,
            priority=notification.priority,
            template=notification.template,
            template_version=notification.template_version,
            expires_at=notification.expires_at,
            metadata=notification.metadata,
        ),
    )


def replay_view(replay: Replay) -> ReplayView:
    """The replay as the API shows it."""
    return ReplayView(
        id=to_text(REPLAY_PREFIX, replay.id),
        state=replay.state,
        filter=_filter(replay.filter),
        per_second=replay.per_second,
        expected=replay.expected,
        found=replay.found,
        replayed=replay.replayed,
        skipped=replay.skipped,
        asked_by=AskedBy(replay.key_id, replay.key_prefix),
        created_at=rfc3339(replay.created_at),
        started_at=_time(replay.started_at),
        finished_at=_time(replay.finished_at),
    )


def _fields(letter: DeadLetter, obstacle: Obstacle | None) -> dict[str, object]:
    notification, last = letter.record.notification, letter.last
    return {
        "id": to_text(DELIVERY_PREFIX, letter.id),
        "notification_id": to_text(NOTIFICATION_PREFIX, notification.id),
        "state": last.state,
        "channel": channel_of(letter.id),
        "address": address_of(letter).value,
        "provider": last.provider,
        "reason": last.reason,
        "detail": last.detail,
        "attempt": number_in_life(last.attempt),
        "ended_at": rfc3339(last.at),
        "accepted_at": rfc3339(notification.accepted_at),
        "user_id": notification.to.user_id,
        "category": notification.category,
        "template": None if notification.template is None else notification.template.name,
        "replayable": obstacle is None,
        "obstacle": obstacle,
        "why": None if obstacle is None else WHY[obstacle],
    }


def _filter(filter: LetterFilter) -> FilterView:
    return FilterView(
        state=filter.state,
        channel=filter.channel,
        category=filter.category,
        provider=filter.provider,
        reason=filter.reason,
        user_id=filter.user_id,
        since=_time(filter.since),
        until=_time(filter.until),
        delivery_id=None if filter.delivery_id is None else to_text(DELIVERY_PREFIX, filter.delivery_id),
    )


def _time(instant: int | None) -> str | None:
    return None if instant is None else rfc3339(instant)
