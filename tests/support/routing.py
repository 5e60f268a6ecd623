"""Short ways to ask for the plan of a notification and for the gate's verdict on a delivery."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType
from uuid import UUID

from support.deliveries import make_delivery
from tidings.model.delivery import Delivery
from tidings.model.ids import delivery_id, new_id
from tidings.model.notification import Notification, Recipient
from tidings.model.user import Address, Category, Preferences, Profile, QuietHours
from tidings.model.vocabulary import Channel, Strategy
from tidings.policy.routing import Go, Hold, Planned, Stop, addresses, choose, gate, wanted

ADA = Recipient(user_id="ada")
ALL = tuple(Channel)
NIGHT = Preferences(quiet_hours=QuietHours(22 * 60, 8 * 60))
MIDNIGHT, MORNING = 1_789_941_600_000, 1_789_970_400_000
"""2026-09-21 00:00 and 08:00 in Berlin."""
NOW = 1_790_000_000_000
DAY = 86_400_000
ID = new_id(NOW, 77, 123456789)
SMS_ONLY = (Channel.SMS,)
Suppressed = Mapping[tuple[str, Address], str]
NOTHING_SUPPRESSED: Suppressed = MappingProxyType({})


def notification(
    to: Recipient = ADA,
    channels: tuple[Channel, ...] = (),
    strategy: Strategy = Strategy.ALL,
    expires_at: int | None = None,
) -> Notification:
    """A notification that is accepted now."""
    return Notification(
        id=ID, tenant="shop", to=to, accepted_at=NOW, channels=channels, strategy=strategy, expires_at=expires_at
    )


def delivery(of: Notification, slot: int, address: Address, timezone: str | None) -> Delivery:
    """The notification's delivery that has this slot."""
    return make_delivery(
        id=delivery_id(of.id, slot),
        user_id=of.to.user_id,
        key=f"{of.tenant}/{of.to.key}",
        address=address,
        category=of.category,
        timezone=timezone,
        expires_at=of.expires_at,
    )


def plan(
    notification: Notification,
    profile: Profile | None,
    preferences: Preferences,
    category: Category,
    now: int,
    *,
    content: tuple[Channel, ...] = ALL,
    suppressed: Suppressed = NOTHING_SUPPRESSED,
    incarnation: int | None = None,
) -> list[Planned]:
    """The plan for a notification with content for these channels."""
    return choose(
        notification,
        found=addresses(notification.to, profile, wanted(notification, content)),
        profile=profile,
        preferences=preferences,
        category=category,
        content=content,
        suppressed=suppressed,
        now=now,
        incarnation=incarnation,
    )


def verdict(
    delivery: Delivery,
    profile: Profile | None,
    preferences: Preferences,
    category: Category,
    now: int,
    *,
    suppressed: Suppressed = NOTHING_SUPPRESSED,
    cancelled: Collection[UUID] = (),
    incarnation: int | None = None,
) -> Go | Hold | Stop:
    """What the gate says about a delivery."""
    return gate(
        delivery,
        profile=profile,
        preferences=preferences,
        category=category,
        suppressed=suppressed,
        cancelled=cancelled,
        now=now,
        incarnation=incarnation,
    )
