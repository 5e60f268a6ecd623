"""Caps: how often something may pass within a time, in a window that slides.

A *scope* is what is counted: a user's notifications of a category, a user's of all categories, the same content to the
same address. What passes is remembered by its id and its instant; an id that has passed passes again without being
counted, so that a redelivery, a retry, or another channel of the same notification costs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias
from uuid import UUID

from msgspec import Struct

from tidings.model.user import Cap

REMEMBERED = 3_600_000
"""Milliseconds for which an id is known at least, even where every window is shorter."""

SPARE = 200
"""How many ids are known at most for that reason alone."""

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
    return max([REMEMBERED, *(cap.seconds * 1000 for cap in caps)])


def kept(passed: Passed, caps: Sequence[Cap], now: int) -> dict[UUID, int]:
    """What of `passed` still counts or may be asked for again, oldest first."""
    window = max((cap.seconds for cap in caps), default=0) * 1000
    entries = sorted(passed.items(), key=lambda entry: entry[1])
    counting = [entry for entry in entries if entry[1] > now - window]
    spare = [entry for entry in entries[: len(entries) - len(counting)] if entry[1] > now - REMEMBERED]
    return dict(spare[-SPARE:] + counting)


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
        fresh = [
            (place, count)
            for place, count in enumerate(counts)
            if count.id not in changed.get(count.scope, passed.get(count.scope, {}))
        ]
        over = [
            Over(place, *forbidden)
            for place, count in fresh
            if (forbidden := forbidding(_instants(count, changed, passed), count.caps, now)) is not None
        ]
        if not over:
            for count in counts:
                if count.scope not in changed:
                    changed[count.scope] = kept(passed.get(count.scope, {}), count.caps, now)
                # Asked again, it goes out only now: what follows is reckoned from here.
                changed[count.scope][count.id] = max(now, changed[count.scope].get(count.id, now))
            verdicts.append(None)
            continue
        final = next((found for found in over if not counts[found.place].holds), None)
        if final is None:
            final = _in_turn([count for _, count in fresh], over, changed, passed, expected)
        verdicts.append(final)
    return verdicts, changed


def _in_turn(
    fresh: Sequence[Count],
    over: Sequence[Over],
    changed: Mapping[bytes, Passed],
    passed: Mapping[bytes, Passed],
    expected: dict[bytes, list[int]],
) -> Over:
    """The verdict on a request that is held: due when those that were held before it have had their turn."""
    last = max(over, key=lambda found: found.due)
    due = last.due
    for count in fresh:
        waiting = expected.get(count.scope)
        if waiting:
            ahead = forbidding(sorted([*_instants(count, changed, passed), *waiting]), count.caps, due)
            due = due if ahead is None else ahead[1]
    for count in fresh:
        expected.setdefault(count.scope, []).append(due)
    return Over(last.place, last.cap, due)


def _instants(count: Count, changed: Mapping[bytes, Passed], passed: Mapping[bytes, Passed]) -> list[int]:
    return sorted(changed.get(count.scope, passed.get(count.scope, {})).values())
