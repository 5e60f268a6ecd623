"""Building deliveries from notifications and addresses, and the waits that put them into their queue."""

from __future__ import annotations

from collections.abc import Sequence

from tidings.model import topics
from tidings.model.delivery import Delivery
from tidings.model.ids import delivery_id
from tidings.model.notification import Content, Notification
from tidings.model.outcome import Wait
from tidings.model.user import Address, Profile
from tidings.model.vocabulary import Lane
from tidings.model.wire import encode
from tidings.policy.routing import Slotted


def build(
    notification: Notification,
    slot: int,
    address: Address,
    profile: Profile | None,
    *,
    alternatives: Sequence[Slotted] = (),
    attempt: int = 1,
    step: int = 0,
) -> Delivery:
    """The delivery in `slot` to `address`. `profile`: the person's, as of now. Its tries are counted from `attempt`."""
    to = notification.to
    return Delivery(
        id=delivery_id(notification.id, slot),
        tenant=notification.tenant,
        user_id=to.user_id,
        key=key_of(notification),
        address=address,
        category=notification.category,
        priority=notification.priority,
        template=notification.template,
        content=notification.content and _content_for(notification.content, address, alternatives),
        data=notification.data if notification.template is not None else b"{}",
        locale=to.locale or (profile.locale if profile is not None else None),
        timezone=to.timezone or (profile.timezone if profile is not None else None),
        name=profile.name if profile is not None else None,
        attempt=attempt,
        step=step,
        expires_at=notification.expires_at,
        alternatives=tuple(alternatives),
        first_attempt=attempt,
        incarnation=notification.incarnation,
    )


def wait_for(delivery: Delivery, due: int, *, held: bool = False, surplus: bool = False, at_least_ms: int = 0) -> Wait:
    """The wait of a delivery until `due` (milliseconds since the epoch). `held` and `at_least_ms` as in `Wait`.

    `schedule` decides at the due time whether it belongs to the tenant's surplus, unless `surplus` already says so.
    """
    topic = topics.deliveries(delivery.channel, Lane.of(delivery.priority, surplus=surplus))
    return Wait(due, topic, delivery.key, encode(delivery), held=held, at_least_ms=at_least_ms)


def key_of(notification: Notification) -> str:
    """The queue key of everything about the notification's recipient."""
    return f"{notification.tenant}/{notification.to.key}"


def _content_for(content: Content, address: Address, alternatives: Sequence[Slotted]) -> Content:
    """The literal content for the delivery's channel and the channels of its alternatives."""
    needed = {address.channel, *(alternative.channel for _, alternative in alternatives)}
    return Content(**{channel.value: getattr(content, channel.value) for channel in needed})
