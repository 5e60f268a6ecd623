"""The accounts of a span of time: how many notifications were accepted, and in which states they are.

`accepted = delivered + sent + suppressed + failed + expired + cancelled + dead + uncertain + in flight`. The processes
that answer 202 count the left side; the right side is read from the history. If they differ, something is missing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from tidings.model.accounting import MINUTE_MS, AcceptedCount, Gap, StateCount
from tidings.model.days import DAY_MINUTES, DayState, DaySum
from tidings.model.errors import Invalid, Unavailable
from tidings.model.history import Tally
from tidings.model.vocabulary import Channel, State
from tidings.policy.days import stretches, whole_days
from tidings.policy.transitions import IN_FLIGHT
from tidings.ports.accounts import Accounts
from tidings.ports.clock import Clock
from tidings.ports.days import Days
from tidings.ports.history import History
from tidings.report.notifications import TallyView, rfc3339

DEFAULT_MINUTES = 24 * 60
"""The span of an account when none is given."""
LONGEST_MINUTES = 31 * 24 * 60
"""The longest span of an account: each of its notifications is read."""

_TRIES = 5


class InFlight(Struct, frozen=True):
    """How many notifications are in flight, by state. `queued` ones are accepted and not yet recorded."""

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
    """The account of all notifications.

    `counted` is what the counters say was answered with 202. A killed process may have counted up to a second too
    little. Recorded notifications were certainly accepted, so `accepted` is the larger of `counted` and `recorded`,
    minute by minute. `missing` ones are neither recorded nor in any queue.
    """

    accepted: int
    counted: int
    recorded: int
    in_flight: InFlight
    resting: Resting
    missing: int
    balanced: bool


class DeliveryAccount(Struct, frozen=True):
    """The account of one channel's deliveries."""

    total: int
    in_flight: int
    resting: Resting


class AccountView(Struct, frozen=True):
    """One tenant's account of the notifications accepted from `since` (inclusive) to `until` (exclusive).

    Both are whole minutes; for days that are long over, whole days. `tally` splits the states by reason: a row without
    a channel counts notifications, the others count deliveries.
    """

    tenant: str
    since: str
    until: str
    notifications: NotificationAccount
    deliveries: dict[str, DeliveryAccount]
    tally: list[TallyView]


class Accounting:
    """Draws up accounts."""

    def __init__(self, history: History, accounts: Accounts, days: Days, clock: Clock) -> None:
        self._history = history
        self._accounts = accounts
        self._days = days
        self._clock = clock

    async def account(self, tenant: str, since: int | None = None, until: int | None = None) -> AccountView:
        """The tenant's account; of the last 24 hours by default. Instants are milliseconds since the epoch.

        If the span cuts a folded day, it is widened to the whole day: of a folded day the minutes are not known any
        more.

        Raises:
            Invalid: the span is empty or too long.
            Unavailable: days were archived again and again while the account was drawn up.
        """
        first, end = self._minutes(since, until)
        span = first // DAY_MINUTES, (end - 1) // DAY_MINUTES
        for _ in range(_TRIES):
            states, sums = await self._days.sums(tenant, *span)
            folded = {state.day for state in states if state.folded}
            account = await self._account(tenant, *whole_days(first, end, folded), states, sums)
            if _places(states) == _places(await self._days.states(*span)):
                return account
        raise Unavailable("days are being archived; ask again in a moment")

    async def _account(
        self, tenant: str, first: int, end: int, states_of_days: Sequence[DayState], sums: Sequence[DaySum]
    ) -> AccountView:
        """The account from minute `first` to `end`: from the days' sums where they hold, else from the store's rows."""
        span = range(first // DAY_MINUTES, (end - 1) // DAY_MINUTES + 1)
        summed, to_read = stretches(first, end, states_of_days)
        days = {state.day: state for state in states_of_days if state.day in span}
        by_sums = {state.day for state in summed}
        day_sums = [
            # If a folded day has changed since its sums, they still tell how much was accepted; the rest is read.
            day_sum if day_sum.day in by_sums or days[day_sum.day].archived else replace(day_sum, recorded=0, tally=())
            for day_sum in sums
            if day_sum.day in days and (day_sum.day in by_sums or days[day_sum.day].folded)
        ]
        # Read in this order, nothing looks missing: a notification is counted before it is recorded.
        counted = [count for low, high in to_read for count in await self._accounts.accepted(low, high, tenant)]
        gaps = await self._accounts.gaps(tenant)
        states = [count for low, high in to_read for count in await self._history.states(low, high, tenant)]
        lines: Counter[tuple[str | None, State, str]] = Counter()
        for low, high in to_read:
            for line in await self._history.tally(tenant, low * MINUTE_MS, high * MINUTE_MS):
                lines[line.channel, line.state, line.reason] += line.count
        for day_sum in day_sums:
            for line in day_sum.tally:
                lines[line.channel, line.state, line.reason] += line.count
        ordered = sorted(lines.items(), key=lambda entry: (entry[0][0] or "", entry[0][1], entry[0][2]))
        tally = [Tally(channel, state, reason, count) for (channel, state, reason), count in ordered]
        return AccountView(
            tenant=tenant,
            since=rfc3339(first * MINUTE_MS),
            until=rfc3339(end * MINUTE_MS),
            notifications=notifications(counted, states, [gap for gap in gaps if first <= gap.minute < end], day_sums),
            deliveries={channel.value: deliveries(tally, channel) for channel in Channel},
            tally=[TallyView(line.channel, line.state, line.reason, line.count) for line in tally],
        )

    def _minutes(self, since: int | None, until: int | None) -> tuple[int, int]:
        """The first minute of the span, and the one after its last. Raises Invalid."""
        end = self._clock.now() // MINUTE_MS + 1 if until is None else -(-until // MINUTE_MS)
        first = max(0, end - DEFAULT_MINUTES) if since is None else since // MINUTE_MS
        if first >= end:
            raise Invalid("empty_span", "since must come before until", "since")
        if end - first > LONGEST_MINUTES:
            raise Invalid("span_too_long", "ask for 31 days at most", "since")
        return first, end


def notifications(
    counted: Iterable[AcceptedCount],
    states: Iterable[StateCount],
    gaps: Iterable[Gap],
    day_sums: Iterable[DaySum] = (),
) -> NotificationAccount:
    """One tenant's counts, states and gaps as an account.

    `day_sums` are the days that count as a whole; their notifications in `states` are added to the sums.
    """
    days = {day_sum.day: day_sum for day_sum in day_sums}
    counted_by_minute, counted_by_day = _counted(counted, days)
    accepted_by_day = Counter({day: max(one.accepted, counted_by_day[day]) for day, one in days.items()})
    recorded_by_minute: Counter[int] = Counter()
    recorded_by_day = Counter({day: one.recorded for day, one in days.items()})
    by_state: Counter[State] = Counter()
    for line in (line for one in days.values() for line in one.tally if line.channel is None):
        by_state[line.state] += line.count
    for state_count in states:
        day = state_count.minute // DAY_MINUTES
        if day in days:
            recorded_by_day[day] += state_count.count
        else:
            recorded_by_minute[state_count.minute] += state_count.count
        by_state[state_count.state] += state_count.count
    # Subtracted minute by minute: a surplus in one minute must not hide a gap in another.
    unrecorded_by_minute = counted_by_minute - recorded_by_minute
    unrecorded_by_day = accepted_by_day - recorded_by_day
    missing_by_day = Counter({day: one.missing for day, one in days.items()})
    missing = 0
    for gap in gaps:
        if gap.confirmed and gap.minute // DAY_MINUTES in days:
            missing_by_day[gap.minute // DAY_MINUTES] += gap.missing
        elif gap.confirmed:
            missing += min(gap.missing, unrecorded_by_minute[gap.minute])
    missing += (unrecorded_by_day & missing_by_day).total()
    queued = unrecorded_by_minute.total() + unrecorded_by_day.total() - missing
    in_flight = queued + sum(by_state[state] for state in IN_FLIGHT)
    accepted = (counted_by_minute | recorded_by_minute).total() + (accepted_by_day | recorded_by_day).total()
    resting = _resting(by_state)
    return NotificationAccount(
        accepted=accepted,
        counted=counted_by_minute.total() + counted_by_day.total(),
        recorded=recorded_by_minute.total() + recorded_by_day.total(),
        in_flight=InFlight(
            queued=queued,
            pending=by_state[State.PENDING],
            deferred=by_state[State.DEFERRED],
            sending=by_state[State.SENDING],
            total=in_flight,
        ),
        resting=resting,
        missing=missing,
        balanced=accepted == in_flight + _sum(resting),
    )


def _counted(counted: Iterable[AcceptedCount], days: Mapping[int, DaySum]) -> tuple[Counter[int], Counter[int]]:
    """The counts by minute; and by day for `days`, with the counts that came after their sums."""
    by_minute: Counter[int] = Counter()
    by_day = Counter({day: one.counted for day, one in days.items()})
    for one in counted:
        if one.minute // DAY_MINUTES in days:
            by_day[one.minute // DAY_MINUTES] += one.count
        else:
            by_minute[one.minute] = one.count
    return by_minute, by_day


def _places(states: Iterable[DayState]) -> set[tuple[int, bool, bool, int]]:
    """Where each day's data is: in the store, in sums, or in the archive."""
    return {(state.day, state.archived, state.folded, state.passes) for state in states}


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
