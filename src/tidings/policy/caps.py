"""Caps: how many requests pass within a sliding window.

A *scope* is what is counted: a user's notifications in a category, a user's notifications in all categories, or the
same content to the same address. Each request that passes is remembered by its id and instant. An id that comes again
(a redelivery, a retry, another channel of the notification) is counted once, at its latest instant, and its earlier
instant does not count against it. So it always passes again within the window, and later only where there is room.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias
from uuid import UUID

from msgspec import Struct

from tidings.model.user import Cap

Passed: TypeAlias = Mapping[UUID, int]
"""The ids that have passed in a scope, with their instants (milliseconds since the epoch)."""


class Count(Struct, frozen=True, gc=False):
    """One scope in which a request needs room: its `id` passes if all of `caps` permit.

    `holds`: a request that these caps forbid is held until they permit it; otherwise it is given up.
    """

    scope: bytes
    id: UUID
    caps: tuple[Cap, ...]
    holds: bool = False


class Over(Struct, frozen=True, gc=False):
    """Why a request does not pass: its count at index `place` is over `cap`.

    The request may pass from `due` (milliseconds since the epoch) on, if every count that is over its cap `holds`.
    """

    place: int
    cap: Cap
    due: int


def forbidding(instants: Sequence[int], caps: Sequence[Cap], now: int) -> tuple[Cap, int] | None:
    """The cap that forbids one more at `now` for the longest time, and when it permits; None when all permit.

    `instants` ascend, in milliseconds since the epoch; an instant after `now` (another machine's clock) counts too. A
    cap permits when fewer than `count` instants lie within the last `seconds`.
    """
    strictest: tuple[Cap, int] | None = None
    for cap in caps:
        if len(instants) >= cap.count:
            due = instants[-cap.count] + cap.seconds * 1000
            if due > now and (strictest is None or due > strictest[1]):
                strictest = cap, due
    return strictest


def kept_for_ms(caps: Sequence[Cap]) -> int:
    """How long a passed id counts under the longest of these caps."""
    return max((cap.seconds for cap in caps), default=0) * 1000


def kept(passed: Passed, caps: Sequence[Cap], now: int) -> dict[UUID, int]:
    """The entries of `passed` that still count, oldest first."""
    since = now - kept_for_ms(caps)
    return {id: at for id, at in sorted(passed.items(), key=lambda entry: entry[1]) if at > since}


def take(
    requests: Sequence[Sequence[Count]], passed: Mapping[bytes, Passed], now: int
) -> tuple[list[Over | None], dict[bytes, dict[UUID, int]]]:
    """Judge `requests` in order. A request passes, and is counted, only if every one of its counts has room.

    Returns a verdict for each request (None: it passes) and the new contents of the scopes that changed. `passed` has
    the contents before; an absent scope is empty.

    Held requests get due times one after the other, as room comes, not all the first instant at which one may pass.
    """
    changed: dict[bytes, dict[UUID, int]] = {}
    expected: dict[bytes, list[int]] = {}
    verdicts: list[Over | None] = []
    for counts in requests:
        over = [
            Over(place, *forbidden)
            for place, count in enumerate(counts)
            if (forbidden := forbidding(_others(count, changed, passed), count.caps, now)) is not None
        ]
        if not over:
            for count in counts:
                if count.scope not in changed:
                    changed[count.scope] = kept(passed.get(count.scope, {}), count.caps, now)
                changed[count.scope][count.id] = max(now, changed[count.scope].get(count.id, now))
            verdicts.append(None)
            continue
        final = next((exceeded for exceeded in over if not counts[exceeded.place].holds), None)
        if final is None:
            final = _in_turn(counts, over, changed, passed, expected)
        verdicts.append(final)
    return verdicts, changed


def _in_turn(
    counts: Sequence[Count],
    over: Sequence[Over],
    changed: Mapping[bytes, Passed],
    passed: Mapping[bytes, Passed],
    expected: dict[bytes, list[int]],
) -> Over:
    """The verdict on a held request: it is due when there is room after all requests that were held before it."""
    last = max(over, key=lambda exceeded: exceeded.due)
    due = last.due
    for count in counts:
        waiting = expected.get(count.scope)
        if waiting:
            ahead = forbidding(sorted([*_others(count, changed, passed), *waiting]), count.caps, due)
            due = due if ahead is None else ahead[1]
    for count in counts:
        expected.setdefault(count.scope, []).append(due)
    return Over(last.place, last.cap, due)


def _others(count: Count, changed: Mapping[bytes, Passed], passed: Mapping[bytes, Passed]) -> list[int]:
    """The instants at which the other ids of the scope passed, ascending."""
    known = changed.get(count.scope, passed.get(count.scope, {}))
    return sorted(at for id, at in known.items() if id != count.id)
