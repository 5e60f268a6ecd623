"""The closed sets of words: channels, priorities, delivery states, reasons."""

from __future__ import annotations

from enum import StrEnum


class Channel(StrEnum):
    """A medium through which a person is reached."""

    EMAIL = "email"
    SMS = "sms"
    PUSH = "push"
    INAPP = "inapp"


class Priority(StrEnum):
    """How urgent a notification is. It chooses the lane; lanes never wait for each other."""

    CRITICAL = "critical"
    NORMAL = "normal"
    BULK = "bulk"


class Lane(StrEnum):
    """A set of queues that notifications of one priority travel in; the most urgent lane comes first.

    Each priority has two lanes: one for notifications within the tenant's fair share, one for the surplus.
    """

    CRITICAL = "critical"
    CRITICAL_SURPLUS = "critical.surplus"
    NORMAL = "normal"
    NORMAL_SURPLUS = "normal.surplus"
    BULK = "bulk"
    BULK_SURPLUS = "bulk.surplus"

    def __init__(self, name: str) -> None:
        """A lane has the `priority` that it belongs to; `is_surplus` if it is for what exceeds a tenant's share."""
        # Every item on its way asks for these: attributes cost a tenth of what properties cost that compute them.
        priority, _, surplus = name.partition(".")
        self.priority = Priority(priority)
        self.is_surplus = bool(surplus)

    @classmethod
    def of(cls, priority: Priority, *, surplus: bool) -> Lane:
        """The lane of a priority, or of its surplus."""
        return _SURPLUS_LANES[priority] if surplus else _LANES[priority]

    @property
    def surplus(self) -> Lane:
        """The lane for the surplus of this lane's priority."""
        return Lane.of(self.priority, surplus=True)


_LANES = {lane.priority: lane for lane in Lane if not lane.is_surplus}
_SURPLUS_LANES = {lane.priority: lane for lane in Lane if lane.is_surplus}


class Strategy(StrEnum):
    """Whether a notification goes to all its channels, or to the first one on which the user is reachable."""

    ALL = "all"
    FIRST_REACHABLE = "first_reachable"


class State(StrEnum):
    """The state of a delivery; a notification's follows from its deliveries (see policy/transitions.py)."""

    PENDING = "pending"
    DEFERRED = "deferred"
    SENDING = "sending"
    UNCERTAIN = "uncertain"
    SENT = "sent"
    DELIVERED = "delivered"
    SUPPRESSED = "suppressed"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    FAILED = "failed"
    DEAD = "dead"


class Reason(StrEnum):
    """Why a delivery was deferred, suppressed or ended. A provider may give other reasons, as text."""

    OPTED_OUT = "opted_out"
    MUTED = "muted"
    QUIET_HOURS = "quiet_hours"
    SEND_AT = "send_at"
    NO_ADDRESS = "no_address"
    UNKNOWN_USER = "unknown_user"
    USER_DELETED = "user_deleted"
    ADDRESS_CHANGED = "address_changed"
    ADDRESS_SUPPRESSED = "address_suppressed"
    NO_CONTENT = "no_content"
    TEMPLATE_ERROR = "template_error"
    EMPTY_CONTENT = "empty_content"
    TOO_LONG = "too_long"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    RETRY = "retry"
    FALLBACK = "fallback"
    ATTEMPTS_EXHAUSTED = "attempts_exhausted"
    MAY_HAVE_BEEN_SENT = "may_have_been_sent"
    CAPPED = "capped"
    DUPLICATE = "duplicate"
    PROVIDER_OPEN = "provider_open"
    PROVIDER_FAILING = "provider_failing"
    PROVIDER_BUSY = "provider_busy"
    CHANNEL_OFF = "channel_off"
    CHANGED = "changed"
    REPLAYED = "replayed"
    SWEPT = "swept"
    STUCK = "stuck"


class QuietPolicy(StrEnum):
    """What quiet hours do to a category.

    `hold`: wait for their end, then send spread over some minutes. `wake_up`: send at their end. `drop`: never send.
    """

    HOLD = "hold"
    WAKE_UP = "wake_up"
    DROP = "drop"


class Excess(StrEnum):
    """Whether a delivery that a cap forbids now is dropped or held until the cap permits it."""

    DROP = "drop"
    HOLD = "hold"
