"""Caps: how often something may pass within a time, in a window that slides.

A *scope* is what is counted: a user's notifications of a category, a user's of all categories, the same content to the
same address. What passes is remembered by its id and its instant. An id that comes again (a redelivery, a retry,
another channel of the notification) takes its place along: it is counted once, from then on, and its earlier instant
does not stand in its way. So within the windows it passes in any case, and later only where there is room.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias
from uuid import UUID

from msgspec import Struct

from tidings.model.user import Cap

Passed: TypeAlias = Mapping[UUID, int]
"""What has passed in a scope: ids with their instants (milliseconds since the epoch)."""


class Count(Struct, frozen=True, gc=False):
    """One scope in which a request must have room: `id` passes in it if all of `caps` permit.

    `holds`: what these caps forbid will ask again when they permit; else it is given up.
    """

    scope: bytes
    id: UUID
    caps: tuple[Cap, ...]
    holds: bool = False


class Over(Struct, frozen=True, gc=False):
    """Why a request does not pass: the count at `place` of it is over `cap`. It may pass from `due` on.

    `due` is in milliseconds since the epoch, and means something where all counts that are over hold.
    """

    place: int
    cap: Cap
    due: int


def forbidding(instants: Sequence[int], caps: Sequence[Cap], now: int) -> tuple[Cap, int] | None:
    """The cap that forbids one more at `now` for the longest time, and when it permits; None when all permit.

    `instants` ascend, in milliseconds since the epoch; one that lies ahead of `now` (another machine's clock) counts. A
    cap permits when fewer than `count` of them lie within the last `seconds`.
    """
    found: tuple[Cap, int] | None = None
    for cap in caps:
        if len(instants) >= cap.count:
            due = instants[-cap.count] + cap.seconds * 1000
            if due > now and (found is None or due > found[1]):
                found = cap, due
    return found


def kept_for(caps: Sequence[Cap]) -> int:
    """Milliseconds after which what passed under these caps means nothing any more."""
    return max((cap.seconds for cap in caps), default=0) * 1000


def kept(passed: Passed, caps: Sequence[Cap], now: int) -> dict[UUID, int]:
    """What of `passed` still counts, oldest first."""
    since = now - kept_for(caps)
    return {id: at for id, at in sorted(passed.items(), key=lambda entry: entry[1]) if at > since}


def take(
    requests: Sequence[Sequence[Count]], passed: Mapping[bytes, Passed], now: int
) -> tuple[list[Over | None], dict[bytes, dict[UUID, int]]]:
    """Judge `requests` in order, each all or nothing: it passes, and counts, when every one of its counts has room.

    Gives a verdict for each (None: it passes) and the scopes that changed, as they are now. `passed` has what was known
    of the scopes; a scope that is absent is empty.

    What is held is told to come back one after the other, as room comes, not all at the first instant at which one of
    them may pass.
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
        final = next((found for found in over if not counts[found.place].holds), None)
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
    """The verdict on a request that is held: due when those that were held before it have had their turn."""
    last = max(over, key=lambda found: found.due)
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
    """When the other ids of the scope passed, ascending."""
    known = changed.get(count.scope, passed.get(count.scope, {}))
    return sorted(at for id, at in known.items() if id != count.id)
