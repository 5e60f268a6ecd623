"""What happens in a run, drawn by its seed: who is notified of what and when, and what changes on the way."""

from __future__ import annotations

from msgspec import Struct

from tidings.model.notification import Content, EmailContent, SmsContent
from tidings.model.template import TemplateVersion, Variable
from tidings.model.user import Address, Cap, Category, Preferences, Profile
from tidings.model.vocabulary import Channel, Excess, QuietPolicy
from tidings.sections import BreakerSettings, Delivering, Fairness
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
CHANGING = "promo"
"""The category that changes on the way, but for its caps and whether it allows doubles."""
RECURRING = 10_000
"""The numbers of recurrences, in the metadata of what they send, begin here."""
AFTERWARDS = 20_000
"""The numbers of what is sent long after the last fault begin here."""
NOISE = 30_000
"""The numbers of what one tenant suddenly sends to many begin here."""
RECOVERY = 300.0
"""Seconds from the last fault until everything is well, beside the longest pause that a provider may be granted."""
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
LITERAL = "Hello"
"""What every content that is not the template's says first."""


def texts(number: int) -> list[str]:
    """What the template says first, in its languages."""
    return [f"Order {number}", f"Bestellung {number}"]


def longest_pause_s(delivering: Delivering) -> float:
    """Seconds that a provider is granted which asks for a pause."""
    return max(delivering.retry_policy(channel).cap for channel in Channel)


class Asked(Struct, frozen=True):
    """A request that a client makes at the second `at`, again and again until it is answered or its patience ends.

    `numbers` are those of its notifications, in their metadata; several make it a batch. `twice`: two threads of the
    client make it at once. `timeout` in seconds.
    """

    at: float
    tenant: str
    numbers: tuple[int, ...]
    body: bytes
    key: str | None
    tries: int
    timeout: float
    twice: bool = False


class PreferencesSet(Struct, frozen=True):
    """A person's preferences and profile from the second `at` on; both None: the user is deleted."""

    at: float
    tenant: str
    user_id: str
    profile: Profile | None
    preferences: Preferences | None


class AddressBarred(Struct, frozen=True):
    """An address on the suppression list, or (`barred` False) off it again."""

    at: float
    tenant: str
    address: Address
    barred: bool


class Cancelled(Struct, frozen=True):
    """The notification with this number is cancelled, if its id is known then."""

    at: float
    tenant: str
    number: int


class MoodChanged(Struct, frozen=True):
    """A vendor behaves otherwise from now on."""

    at: float
    vendor: str
    mood: Mood


class VendorDown(Struct, frozen=True):
    """A vendor takes nothing for `seconds`, be the storm over or not, and says so with `reason`."""

    at: float
    vendor: str
    seconds: float
    reason: str


class CategorySet(Struct, frozen=True):
    """A category is declared anew."""

    at: float
    tenant: str
    category: Category


class ClocksMoved(Struct, frozen=True):
    """The clocks of all processes are set anew, forwards or backwards."""

    at: float


class Recurring(Struct, frozen=True):
    """A recurrence is created. `dates`: on how many different days it comes (0: within minutes); `times`: how often."""

    at: float
    tenant: str
    number: int
    times: int
    dates: int
    timezone: str
    body: bytes


class Replayed(Struct, frozen=True):
    """Somebody has all dead letters of a tenant sent again."""

    at: float
    tenant: str


class Outage(Struct, frozen=True):
    """All processes whose names start with `role` are killed, and start again after `seconds`."""

    at: float
    role: str
    seconds: float


Change = (
    PreferencesSet
    | AddressBarred
    | CategorySet
    | Cancelled
    | MoodChanged
    | VendorDown
    | ClocksMoved
    | Outage
    | Recurring
    | Replayed
)


class Scenario(Struct, frozen=True):
    """A run.

    `start` in milliseconds since the epoch; faults come in the first `storm` seconds. `partitions`: 0 for a queue like
    a database, else one like a log. `overall_caps` are the caps of the tenants' category `*`.
    """

    seed: int
    start: int
    storm: float
    weather: Weather
    partitions: int
    audit_every: float
    delivering: Delivering
    fairness: Fairness
    breaker: BreakerSettings
    vendors: tuple[Traits, ...]
    overall_caps: tuple[tuple[str, tuple[Cap, ...]], ...]
    asked: tuple[Asked, ...]
    changes: tuple[Change, ...]
