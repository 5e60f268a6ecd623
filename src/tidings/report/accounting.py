"""The accounts of a stretch of time: what was accepted, and where all of it is.

`accepted = delivered + sent + suppressed + failed + expired + cancelled + dead + uncertain + in flight`. Those who
answer 202 count the left side, apart from the history that the right side is read from: they are equal, or something
is missing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct

from tidings.model.accounting import MINUTE, AcceptedCount, Gap, StateCount
from tidings.model.errors import Invalid
from tidings.model.history import Tally
from tidings.model.vocabulary import Channel, State
from tidings.policy.transitions import IN_FLIGHT
from tidings.ports.accounts import Accounts
from tidings.ports.clock import Clock
from tidings.ports.store import History
from tidings.report.notifications import TallyView, rfc3339

USUAL = 24 * 60
"""Minutes that are looked at when nothing else is said."""
LONGEST = 31 * 24 * 60
"""Minutes that can be asked for at once: each notification of them is read."""


class InFlight(Struct, frozen=True):
    """What something still moves on by itself. `queued` is accepted and not yet recorded."""

    queued: int
    pending: int
    deferred: int
    sending: int
    total: int


class Resting(Struct, frozen=True):
    """How many rest in each state."""

    delivered: int = 0
    sent: int = 0
    suppressed: int = 0
    failed: int = 0
    expired: int = 0
    cancelled: int = 0
    dead: int = 0
    uncertain: int = 0


class NotificationAccount(Struct, frozen=True):
    """All notifications. `accepted` is what was answered with 202, `counted` what the counters say about it.

    A process that was killed has counted up to a second too little; what is recorded was accepted all the same, so
    `accepted` is the larger of the two, minute by minute. `missing` is neither recorded nor in any queue.
    """

    accepted: int
    counted: int
    recorded: int
    in_flight: InFlight
    resting: Resting
    missing: int
    balanced: bool


class DeliveryAccount(Struct, frozen=True):
    """The deliveries of one channel."""

    total: int
    in_flight: int
    resting: Resting


class AccountView(Struct, frozen=True):
    """One tenant's account of the ids from `since` (inclusive) to `until` (exclusive), whole minutes.

    `tally` says for what reason they are where they are: a row without a channel counts notifications, the others
    deliveries.
    """

    tenant: str
    since: str
    until: str
    notifications: NotificationAccount
    deliveries: dict[str, DeliveryAccount]
    tally: list[TallyView]


class Accounting:
    """Draws up accounts."""

    def __init__(self, history: History, accounts: Accounts, clock: Clock) -> None:
        self._history = history
        self._accounts = accounts
        self._clock = clock

    async def account(self, tenant: str, since: int | None = None, until: int | None = None) -> AccountView:
        """The tenant's account; the last 24 hours where nothing is said. Instants are milliseconds since the epoch.

        Raises:
            Invalid: there is nothing between the two, or too much.
        """
        first, end = self._stretch(since, until)
        # In this order: what is recorded in between was counted before, and never looks missing.
        counted = await self._accounts.accepted(first, end, tenant)
        gaps = await self._accounts.gaps(tenant)
        states = await self._history.states(first, end, tenant)
        tally = await self._history.tally(tenant, first * MINUTE, end * MINUTE)
        return AccountView(
            tenant=tenant,
            since=rfc3339(first * MINUTE),
            until=rfc3339(end * MINUTE),
            notifications=notifications(counted, states, [gap for gap in gaps if first <= gap.minute < end]),
            deliveries={channel.value: deliveries(tally, channel) for channel in Channel},
            tally=[TallyView(line.channel, line.state, line.reason, line.count) for line in tally],
        )

    def _stretch(self, since: int | None, until: int | None) -> tuple[int, int]:
        end = self._clock.now() // MINUTE + 1 if until is None else -(-until // MINUTE)
        first = max(0, end - USUAL) if since is None else since // MINUTE
        if first >= end:
            raise Invalid("empty_span", "since must come before until", "since")
        if end - first > LONGEST:
            raise Invalid("span_too_long", "ask for 31 days at most", "since")
        return first, end


def notifications(
    counted: Iterable[AcceptedCount], states: Iterable[StateCount], gaps: Iterable[Gap]
) -> NotificationAccount:
    """One tenant's counts, states and gaps as an account."""
    by_minute = Counter({one.minute: one.count for one in counted})
    recorded: Counter[int] = Counter()
    by_state: Counter[State] = Counter()
    for one in states:
        recorded[one.minute] += one.count
        by_state[one.state] += one.count
    unrecorded = by_minute - recorded  # minute by minute: a surplus of one must not hide a lack of another
    missing = sum(min(gap.missing, unrecorded[gap.minute]) for gap in gaps if gap.confirmed)
    queued = unrecorded.total() - missing
    flying = queued + sum(by_state[state] for state in IN_FLIGHT)
    accepted = sum(max(by_minute[minute], recorded[minute]) for minute in by_minute.keys() | recorded.keys())
    resting = _resting(by_state)
    return NotificationAccount(
        accepted=accepted,
        counted=by_minute.total(),
        recorded=recorded.total(),
        in_flight=InFlight(
            queued=queued,
            pending=by_state[State.PENDING],
            deferred=by_state[State.DEFERRED],
            sending=by_state[State.SENDING],
            total=flying,
        ),
        resting=resting,
        missing=missing,
        balanced=accepted == flying + _sum(resting),
    )


def deliveries(tally: Sequence[Tally], channel: Channel) -> DeliveryAccount:
    """The rows of the tally that count the channel's deliveries, as an account."""
    by_state: Counter[State] = Counter()
    for line in tally:
        if line.channel == channel.value:
            by_state[line.state] += line.count
    return DeliveryAccount(by_state.total(), sum(by_state[state] for state in IN_FLIGHT), _resting(by_state))


def _resting(by_state: Mapping[State, int]) -> Resting:
    return Resting(**{name: by_state.get(State(name), 0) for name in Resting.__struct_fields__})


def _sum(resting: Resting) -> int:
    return sum(getattr(resting, name) for name in Resting.__struct_fields__)
