"""The accounts of a stretch of time: what was accepted, and where all of it is.

`accepted = delivered + sent + suppressed + failed + expired + cancelled + dead + uncertain + in flight`. Those who
answer 202 count the left side, apart from the history that the right side is read from: they are equal, or something
is missing.
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
from tidings.ports.store import History
from tidings.report.notifications import TallyView, rfc3339

USUAL = 24 * 60
"""Minutes that are looked at when nothing else is said."""
LONGEST = 31 * 24 * 60
"""Minutes that can be asked for at once: each notification of them is read."""


_TRIES = 5


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
    """One tenant's account of the ids from `since` (inclusive) to `until` (exclusive).

    Whole minutes; of days that are long over, whole days.

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

    def __init__(self, history: History, accounts: Accounts, days: Days, clock: Clock) -> None:
        self._history = history
        self._accounts = accounts
        self._days = days
        self._clock = clock

    async def account(self, tenant: str, since: int | None = None, until: int | None = None) -> AccountView:
        """The tenant's account; the last 24 hours where nothing is said. Instants are milliseconds since the epoch.

        Where the stretch cuts a day of which only the whole is known any more, it is widened to the whole day.

        Raises:
            Invalid: there is nothing between the two, or too much.
            Unavailable: days were archived all the time while it was drawn up.
        """
        first, end = self._stretch(since, until)
        span = first // DAY_MINUTES, (end - 1) // DAY_MINUTES
        for _ in range(_TRIES):
            states, sums = await self._days.sums(tenant, *span)
            known = {state.day for state in states if state.folded}
            account = await self._account(tenant, *whole_days(first, end, known), states, sums)
            if _places(states) == _places(await self._days.states(*span)):
                return account
        raise Unavailable("days are being archived; ask again in a moment")

    async def _account(
        self, tenant: str, first: int, end: int, states_of_days: Sequence[DayState], sums: Sequence[DaySum]
    ) -> AccountView:
        """What is archived or rolled up counts by its sums; what is in the store besides is read."""
        span = range(first // DAY_MINUTES, (end - 1) // DAY_MINUTES + 1)
        summed, read = stretches(first, end, states_of_days)
        days = {state.day: state for state in states_of_days if state.day in span}
        by_sums = {state.day for state in summed}
        wholes = [
            # Of a folded day that has changed since, what was accepted is known; what is recorded is read.
            one if one.day in by_sums or days[one.day].archived else replace(one, recorded=0, tally=())
            for one in sums
            if one.day in days and (one.day in by_sums or days[one.day].folded)
        ]
        # In this order: what is recorded in between was counted before, and never looks missing.
        counted = [one for low, high in read for one in await self._accounts.accepted(low, high, tenant)]
        gaps = await self._accounts.gaps(tenant)
        states = [one for low, high in read for one in await self._history.states(low, high, tenant)]
        lines: Counter[tuple[str | None, State, str]] = Counter()
        for low, high in read:
            for line in await self._history.tally(tenant, low * MINUTE_MS, high * MINUTE_MS):
                lines[line.channel, line.state, line.reason] += line.count
        for whole in wholes:
            for line in whole.tally:
                lines[line.channel, line.state, line.reason] += line.count
        ordered = sorted(lines.items(), key=lambda entry: (entry[0][0] or "", entry[0][1], entry[0][2]))
        tally = [Tally(channel, state, reason, count) for (channel, state, reason), count in ordered]
        return AccountView(
            tenant=tenant,
            since=rfc3339(first * MINUTE_MS),
            until=rfc3339(end * MINUTE_MS),
            notifications=notifications(counted, states, [gap for gap in gaps if first <= gap.minute < end], wholes),
            deliveries={channel.value: deliveries(tally, channel) for channel in Channel},
            tally=[TallyView(line.channel, line.state, line.reason, line.count) for line in tally],
        )

    def _stretch(self, since: int | None, until: int | None) -> tuple[int, int]:
        end = self._clock.now() // MINUTE_MS + 1 if until is None else -(-until // MINUTE_MS)
        first = max(0, end - USUAL) if since is None else since // MINUTE_MS
        if first >= end:
            raise Invalid("empty_span", "since must come before until", "since")
        if end - first > LONGEST:
            raise Invalid("span_too_long", "ask for 31 days at most", "since")
        return first, end


def notifications(
    counted: Iterable[AcceptedCount],
    states: Iterable[StateCount],
    gaps: Iterable[Gap],
    wholes: Iterable[DaySum] = (),
) -> NotificationAccount:
    """One tenant's counts, states and gaps as an account.

    `wholes` are days of which only the whole is known; what `states` has of them comes on top.
    """
    days = {one.day: one for one in wholes}
    by_minute, of_days = _counted(counted, days)
    accepted_of = Counter({day: max(one.accepted, of_days[day]) for day, one in days.items()})
    recorded: Counter[int] = Counter()
    of_day = Counter({day: one.recorded for day, one in days.items()})
    by_state: Counter[State] = Counter()
    for line in (line for one in days.values() for line in one.tally if line.channel is None):
        by_state[line.state] += line.count
    for one in states:
        day = one.minute // DAY_MINUTES
        if day in days:
            of_day[day] += one.count
        else:
            recorded[one.minute] += one.count
        by_state[one.state] += one.count
    unrecorded = by_minute - recorded  # minute by minute: a surplus of one must not hide a lack of another
    lacking = accepted_of - of_day
    given_up = Counter({day: one.missing for day, one in days.items()})
    missing = 0
    for gap in gaps:
        if gap.confirmed and gap.minute // DAY_MINUTES in days:
            given_up[gap.minute // DAY_MINUTES] += gap.missing
        elif gap.confirmed:
            missing += min(gap.missing, unrecorded[gap.minute])
    missing += (lacking & given_up).total()
    queued = unrecorded.total() + lacking.total() - missing
    flying = queued + sum(by_state[state] for state in IN_FLIGHT)
    accepted = (by_minute | recorded).total() + (accepted_of | of_day).total()
    resting = _resting(by_state)
    return NotificationAccount(
        accepted=accepted,
        counted=by_minute.total() + of_days.total(),
        recorded=recorded.total() + of_day.total(),
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


def _counted(counted: Iterable[AcceptedCount], days: Mapping[int, DaySum]) -> tuple[Counter[int], Counter[int]]:
    """By minute; and by day where only the whole of it is known, with what was counted since on top."""
    by_minute: Counter[int] = Counter()
    of_days = Counter({day: one.counted for day, one in days.items()})
    for one in counted:
        if one.minute // DAY_MINUTES in days:
            of_days[one.minute // DAY_MINUTES] += one.count
        else:
            by_minute[one.minute] = one.count
    return by_minute, of_days


def _places(states: Iterable[DayState]) -> set[tuple[int, bool, bool, int]]:
    """Where the days are to be looked for."""
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
