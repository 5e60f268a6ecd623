"""A scenario: the requests that clients send in a run, and the changes on the way. All times are virtual seconds."""

from __future__ import annotations

from msgspec import Struct

from tidings.config import Settings
from tidings.model.notification import Content, EmailContent, SmsContent
from tidings.model.template import TemplateVersion, Variable
from tidings.model.user import Address, Cap, Category, Preferences, Profile
from tidings.model.vocabulary import Channel, Excess, QuietPolicy
from tidings.sections import AuditSettings, BreakerSettings, CanarySettings, Delivering, Fairness
from tidings.simulation.faults import Weather
from tidings.simulation.vendors import Mood, Traits

TENANTS = ("acme", "zeta")
CATEGORIES = (
    Category("security", critical=True),
    Category("marketing"),
    Category("news", allow_doubles=True),
    Category("offers", caps=(Cap(2, 120),)),
    Category("tips", quiet_hours=QuietPolicy.WAKE_UP),
    Category("flash", quiet_hours=QuietPolicy.DROP),
    Category("hints", caps=(Cap(1, 60), Cap(3, 600)), excess=Excess.HOLD),
    Category("alerts", dedupe=600),
    Category("promo"),
)
KNOWN_CATEGORIES = {category.name: category for category in CATEGORIES}
CHANGING_CATEGORY = "promo"
"""The category that changes during the run; its caps and whether it allows doubles stay."""
FIRST_RECURRING = 10_000
"""Recurrences are numbered from here on, in the metadata of their notifications."""
FIRST_AFTERWARDS = 20_000
"""Notifications that are sent long after the last fault are numbered from here on."""
FIRST_PATCHED = 40_000
"""A template prints a number from here on after a client changed its notification."""
FIRST_NOISE = 30_000
"""Notifications of a tenant's sudden large batch are numbered from here on."""
RECOVERY_S = 300.0
"""After the last fault, and the longest pause that a provider can ask for, all is well within this time."""
TEMPLATE = TemplateVersion(
    name="order",
    version=0,
    contents={
        "en": Content(
            email=EmailContent("Order {{ number }}", "It is {{ number }}."), sms=SmsContent("Order {{ number }}")
        ),
        "de": Content(
            email=EmailContent("Bestellung {{ number }}", "Es ist die {{ number }}."),
            sms=SmsContent("Bestellung {{ number }}"),
        ),
    },
    variables={"number": Variable()},
)
LITERAL_TEXT = "Hello"
"""The first text of every content that does not come from the template."""


def template_texts(number: int) -> list[str]:
    """The first text of the template, in each of its languages."""
    return [f"Order {number}", f"Bestellung {number}"]


def longest_pause_s(delivering: Delivering) -> float:
    """The longest pause that a provider gets if it asks for one."""
    return max(delivering.retry_policy(channel).cap_s for channel in Channel)


class ClientRequest(Struct, frozen=True):
    """A request that a client sends at `at_s`, up to `tries` times until it is answered.

    `numbers` are those of its notifications, in their metadata; several make it a batch. `sent_twice`: two threads of
    the client send it at once.
    """

    at_s: float
    tenant: str
    numbers: tuple[int, ...]
    body: bytes
    key: str | None
    tries: int
    timeout_s: float
    sent_twice: bool = False


class PreferencesSet(Struct, frozen=True):
    """A user gets a new profile and preferences, or (both None) is deleted."""

    at_s: float
    tenant: str
    user_id: str
    profile: Profile | None
    preferences: Preferences | None


class SuppressionSet(Struct, frozen=True):
    """An address is put on the suppression list, or (`suppressed` False) taken off."""

    at_s: float
    tenant: str
    address: Address
    suppressed: bool


class Cancelled(Struct, frozen=True):
    """A client cancels the notification with this number, if it knows the id by then."""

    at_s: float
    tenant: str
    number: int


class Patched(Struct, frozen=True):
    """A client changes the notification with this number while it waits, if it knows the id by then.

    `body` is that of the request. The notification then waits until `send_at` (milliseconds since the epoch), and its
    template, if it has one, prints the number `prints`.
    """

    at_s: float
    tenant: str
    number: int
    body: bytes
    send_at: int
    prints: int


class MoodChanged(Struct, frozen=True):
    """A vendor gets another mood."""

    at_s: float
    vendor: str
    mood: Mood


class VendorDown(Struct, frozen=True):
    """A vendor refuses everything for `seconds` with `reason`, even after the storm."""

    at_s: float
    vendor: str
    seconds: float
    reason: str


class CategorySet(Struct, frozen=True):
    """A category is changed."""

    at_s: float
    tenant: str
    category: Category


class ClocksMoved(Struct, frozen=True):
    """The clocks of all processes are set, forwards or backwards."""

    at_s: float


class Recurring(Struct, frozen=True):
    """A recurrence with `times` occurrences is created, on `dates` different days (0: within minutes)."""

    at_s: float
    tenant: str
    number: int
    times: int
    dates: int
    timezone: str
    body: bytes


class Replayed(Struct, frozen=True):
    """All dead letters of a tenant are replayed."""

    at_s: float
    tenant: str


class Outage(Struct, frozen=True):
    """All processes whose names start with `role` are killed, and start again after `seconds`."""

    at_s: float
    role: str
    seconds: float


Change = (
    PreferencesSet
    | SuppressionSet
    | CategorySet
    | Cancelled
    | Patched
    | MoodChanged
    | VendorDown
    | ClocksMoved
    | Outage
    | Recurring
    | Replayed
)


class Scenario(Struct, frozen=True):
    """All that a seed determines.

    `start_at` is in milliseconds since the epoch. Faults happen in the first `storm_s` seconds. With `partitions` = 0
    the queue behaves like PostgreSQL's tables, otherwise like Kafka. `overall_caps` are the caps of category `*`, by
    tenant.
    """

    seed: int
    start_at: int
    storm_s: float
    weather: Weather
    partitions: int
    audit_every_s: float
    delivering: Delivering
    fairness: Fairness
    breaker: BreakerSettings
    vendors: tuple[Traits, ...]
    overall_caps: tuple[tuple[str, tuple[Cap, ...]], ...]
    requests: tuple[ClientRequest, ...]
    changes: tuple[Change, ...]

    def settings(self) -> Settings:
        """The settings of every process."""
        return Settings(
            deliver=self.delivering,
            fairness=self.fairness,
            breaker=self.breaker,
            audit=AuditSettings(interval=self.audit_every_s),
            canary=CanarySettings(enabled=False),
        )
