"""A user: the person who is notified, how they are reached and what they want."""

from __future__ import annotations

from typing import Any

from msgspec import Struct, field

from tidings.model.vocabulary import Channel, Excess, QuietPolicy


class Address(Struct, frozen=True, gc=False, array_like=True):
    """One way to reach a user. `value` is an email address, an E.164 number, a device token, or the user id (inbox)."""

    channel: Channel
    value: str


DEAD_DEVICE = frozenset({"unregistered", "invalid_token"})
"""Reasons by which vendors say that a device does not exist (any more). Registering it again lifts its suppression."""


class Profile(Struct, frozen=True, gc=False, omit_defaults=True):
    """What Tidings knows about a user. `phone` is E.164, `locale` a BCP 47 tag, `timezone` an IANA name."""

    email: str | None = None
    phone: str | None = None
    devices: tuple[str, ...] = ()
    locale: str | None = None
    timezone: str | None = None
    name: str | None = None
    attributes: dict[str, Any] = {}


class QuietHours(Struct, frozen=True, gc=False):
    """A daily span, in the user's timezone, in which only critical categories are sent.

    `start` and `end` are minutes after midnight, 0..1439; `start > end` spans midnight; equal means none.
    """

    start: int
    end: int


class Preferences(Struct, frozen=True, gc=False, omit_defaults=True):
    """What a user wants.

    `opted_out` maps a category (or `*`) to the channels that the user refuses; an empty tuple refuses all channels.
    `muted` refuses everything that is not critical.
    """

    opted_out: dict[str, tuple[Channel, ...]] = {}
    quiet_hours: QuietHours | None = None
    muted: bool = False


class User(Struct, frozen=True, gc=False):
    """A stored user. `updated_at` is in milliseconds since the epoch.

    The store also keeps the user's *incarnation*, a number that tells apart the users who have had the same id one
    after the other: a notification for a deleted user must not reach whoever gets the id next.
    """

    user_id: str
    profile: Profile
    preferences: Preferences = Preferences()
    updated_at: int = 0


class Retries(Struct, frozen=True, gc=False, omit_defaults=True):
    """A category's own retry settings; None: the channel's. Names ending in `_s` are seconds."""

    attempts: int | None = None
    base_s: float | None = field(default=None, name="base")
    cap_s: float | None = field(default=None, name="cap")


class Cap(Struct, frozen=True, gc=False):
    """At most `count` notifications to one user in any `seconds`."""

    count: int
    seconds: int


class Category(Struct, frozen=True, gc=False, omit_defaults=True):
    """A category: what a person opts out of, and the rules for it.

    `critical` passes opt-outs, mute, quiet hours and the caps of `*`. `allow_doubles` permits a second provider, or a
    second try without an idempotency key, when a provider may have taken an earlier attempt. `caps` bound what one user
    gets; the caps of the category named `*` count all categories that are not critical. The same content goes to an
    address once within `dedupe` seconds (0: no such check).
    """

    name: str
    critical: bool = False
    allow_doubles: bool = False
    description: str = ""
    quiet_hours: QuietPolicy = QuietPolicy.HOLD
    retries: Retries = Retries()
    caps: tuple[Cap, ...] = ()
    excess: Excess = Excess.DROP
    dedupe: int = 0


class Suppression(Struct, frozen=True, gc=False, array_like=True):
    """An address that must not be used any more: bounced, unregistered, opted out at the vendor."""

    tenant: str
    address: Address
    reason: str
    at: int = 0
