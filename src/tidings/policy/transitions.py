"""The one transition table: which of two facts about a delivery is further, and what state a notification has.

A delivery's state is the furthest of its facts. Facts arrive in any order, so "further" must not depend on the order:
each fact has a rank, and the largest rank wins. Later attempts outrank earlier ones. `delivered` outranks all attempts,
because a receipt that proves arrival is true whatever was believed before.

There is one exception: a mail server may take a mail and send it back later. This return outranks everything before it,
`delivered` too, and a later replay outranks the return. So a delivery has *lives*. The stored attempt is the life times
`ATTEMPTS_PER_LIFE`, plus the number that people see.
"""

from __future__ import annotations

from collections.abc import Iterable

from tidings.model.vocabulary import Reason, State

_ORDER = (
    State.PENDING,
    State.DEFERRED,
    State.SENDING,
    State.UNCERTAIN,
    State.SENT,
    State.SUPPRESSED,
    State.EXPIRED,
    State.CANCELLED,
    State.DEAD,
    State.FAILED,
    State.DELIVERED,
)
_CODE = {state: code for code, state in enumerate(_ORDER)}
STATES_PER_ATTEMPT = 16
"""How many ranks one attempt spans; a rank modulo this is its state's code."""
_DELIVERED_RANK = 1 << 20
_RANKS_PER_LIFE = 1 << 21
_LAST_LIFE = (1 << 31) // _RANKS_PER_LIFE - 1
ATTEMPTS_PER_LIFE = 10_000
"""Far more attempts than a delivery can have, and few enough that their ranks stay below `delivered`."""

IN_FLIGHT = frozenset({State.PENDING, State.DEFERRED, State.SENDING})
"""States that a delivery leaves by itself."""

RESTING = frozenset(State) - IN_FLIGHT
"""States that a delivery leaves only by a receipt or a person. `sent` and `uncertain` are among them."""

ATTEMPTED = frozenset({State.UNCERTAIN, State.SENT, State.FAILED, State.DEAD, State.DELIVERED})
"""States that a provider call has, or may have, caused; so has `deferred` for a reason in `TRIED_AGAIN`."""

HANDED = frozenset({State.SENT, State.UNCERTAIN, State.DELIVERED})
"""States that say that a provider has, or may have, the delivery."""

TRIED_AGAIN = frozenset({Reason.RETRY, Reason.FALLBACK})
"""Reasons of `deferred` that say that the attempt was made and another one follows."""

_ROLLUP = (
    State.DELIVERED,
    State.SENT,
    State.UNCERTAIN,
    State.DEAD,
    State.FAILED,
    State.EXPIRED,
    State.CANCELLED,
    State.SUPPRESSED,
)

PRECEDENCE = (State.SENDING, State.PENDING, State.DEFERRED, *_ROLLUP)
"""Every state, in order: a notification has the first of them that one of its deliveries is in."""


def code(state: State) -> int:
    """The number that stands for a state in every rank: `rank % STATES_PER_ATTEMPT`."""
    return _CODE[state]


def rank(state: State, attempt: int) -> int:
    """How far a fact is: the larger, the further. It fits a signed 32-bit integer."""
    code = _CODE[state]
    if attempt < ATTEMPTS_PER_LIFE:
        return (_DELIVERED_RANK if state is State.DELIVERED else attempt * STATES_PER_ATTEMPT) + code
    life, number = divmod(attempt, ATTEMPTS_PER_LIFE)
    return min(life, _LAST_LIFE) * _RANKS_PER_LIFE + rank(state, number)


def came_back(attempt: int) -> int:
    """The attempt number for the fact that `attempt`, which a server had taken, came back."""
    return attempt + ATTEMPTS_PER_LIFE


def goes_on_with(state: State, reason: str, step: int) -> int | None:
    """The step with which the same attempt continues after the wait in this fact; None if the fact is no wait.

    A possible second copy already waits under its later step, so that its fact differs from all facts of its original.
    """
    if state is State.DEFERRED and reason not in TRIED_AGAIN:
        return step + 1
    if state is State.PENDING and reason == Reason.MAY_HAVE_BEEN_SENT:
        return step
    return None


def may_be_handed(state: State, reason: str) -> bool:
    """Whether this fact says that a provider has, or may have, the delivery."""
    return state in HANDED or (state is State.DEFERRED and reason == Reason.RETRY)


def number_in_life(attempt: int) -> int:
    """The number of an attempt as people count it, without its life."""
    return attempt % ATTEMPTS_PER_LIFE


def state_of(rank: int) -> State:
    """The state of a fact with this rank."""
    return _ORDER[rank % STATES_PER_ATTEMPT]


def notification_state(deliveries: Iterable[State], own: State) -> State:
    """The state of a notification: while a delivery is in flight, that delivery's; else the best of its deliveries'.

    Without deliveries it is `own`, the state of the furthest fact about the notification itself.
    """
    states = set(deliveries)
    if not states:
        return own
    return next(state for state in PRECEDENCE if state in states)
