"""Decides whether a provider that asks for less means the whole account or one recipient.

It means the account if it says so (by its code, or by headers about the account), if it refuses several recipients in
a row for the first time (then the account waits until the provider takes something again), or if it is at its limit: it
takes some and refuses many. It means one recipient if it refuses that one again and again while it takes the others,
whatever the answer says.

Instants (`now`) are milliseconds of a clock that only goes forward.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Sequence

from msgspec import Struct

SEVERAL = 3
"""So many different recipients refused in a row mean the account."""
LIMIT_MS = 30_000
"""A provider is at its limit if it has refused `SEVERAL` recipients for the first time within this time, and has taken
fewer than `FORGIVING` for each of them. While it goes on to take some and refuse some, it stays at its limit."""
FORGIVING = 10
ENOUGH_TAKEN = 20
"""A recipient refused again is meant alone if in between so many others were taken, and at most a tenth refused."""
FEWEST = 3
"""After a pause at least this many of the waiting deliveries are sent at once."""
_MOST_REMEMBERED = 10_000
_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 60.0
"""The account's pause if the provider named none; it doubles while nothing is taken. A wait that the provider asked of
one recipient makes the account wait at most `_LONGEST_PAUSE_S`; then the provider is tried again."""


class Refusal(Struct, frozen=True):
    """A recipient for whom a provider asked to wait.

    `request` numbers the requests of one call. `says_account`: the provider said that the account must wait.
    """

    recipient: str
    request: int
    says_account: bool


class Throttling:
    """What one provider has refused and taken lately, as this process sees it."""

    def __init__(self) -> None:
        self._row: set[str] = set()
        self._all_wait = False
        self._said = False
        self._limit_signs: deque[int] = deque(maxlen=2 * SEVERAL)
        self._taken_since_sign = 0
        self._taken_at: int | None = None
        self._taken = 0
        self._refused = 0
        self._known: OrderedDict[str, tuple[int, int]] = OrderedDict()
        self._of_this_round = 0
        self._let_out: int | None = None
        self.pauses = 0
        """How often the account has had to wait since the provider last took something."""

    def heard(self, refusals: Sequence[Refusal], taken: int, now: int) -> list[bool]:
        """Note one call's refusals, and that `taken` others were taken; returns for each: is it the account's?

        An answer to a request with several recipients counts as one refusal: nobody knows which recipient it means.
        """
        if taken:
            self._taken += taken
            self._of_this_round += taken
            self._row.clear()
            self._all_wait = False
            self.pauses = 0
            self._taken_at = now
        if not refusals:
            self._forget_signs(taken)
            return []
        self._said = any(refusal.says_account for refusal in refusals)
        requests: set[int] = set()
        for refusal in refusals:
            fresh = refusal.recipient not in self._known
            if fresh and refusal.request not in requests:
                requests.add(refusal.request)
                self._limit_signs.append(now)
                if not taken:
                    self._row.add(refusal.recipient)
        self._all_wait = self._all_wait or len(self._row) >= SEVERAL
        self._forget_signs(taken)
        return [self._means_all(refusal, now) for refusal in refusals]

    def pause_s(self, asked: Sequence[float | None], longest_s: float, *, goes_on: bool) -> float:
        """How long the account waits after the refusals noted last. `goes_on`: it waits already.

        `asked` are the seconds that the refusals asked for; `longest_s` bounds the pause.
        """
        wanted = max((after for after in asked if after is not None and after > 0), default=None)
        if wanted is None:
            wanted = min(math.ldexp(_PAUSE_S, min(self.pauses, 10)), _LONGEST_PAUSE_S)
        if not goes_on:
            self.pauses += 1
            self._let_out, self._of_this_round = max(FEWEST, self._of_this_round), 0
        return min(wanted, longest_s if self._said else min(longest_s, _LONGEST_PAUSE_S))

    def let_out(self, room: int) -> int:
        """How many waiting deliveries may follow now, at most `room`.

        After a pause: as many as the provider took before it, then twice as many each time, until it asks for less
        again.
        """
        if self._let_out is None:
            return room
        allowed = min(self._let_out, room)
        self._let_out = None if self._let_out >= room else self._let_out * 2
        return allowed

    def _forget_signs(self, taken: int) -> None:
        self._taken_since_sign += taken
        while self._limit_signs and self._taken_since_sign >= FORGIVING:
            self._taken_since_sign -= FORGIVING
            self._limit_signs.popleft()
        if not self._limit_signs:
            self._taken_since_sign = 0

    def _is_at_its_limit(self, now: int) -> bool:
        return sum(now - sign < LIMIT_MS for sign in self._limit_signs) >= SEVERAL

    def _means_all(self, refusal: Refusal, now: int) -> bool:
        before = self._known.pop(refusal.recipient, None)
        self._refused += 1
        self._known[refusal.recipient] = (self._taken, self._refused)
        if len(self._known) > _MOST_REMEMBERED:
            self._known.popitem(last=False)
        at_limit = self._is_at_its_limit(now)
        if not refusal.says_account and not self._all_wait and not at_limit:
            return False
        if before is None:
            return True
        taken, refused = self._taken - before[0], self._refused - 1 - before[1]
        means_all = taken < ENOUGH_TAKEN or refused * 10 > taken
        # Those left at the end of a day may be refused for ever: then nothing is taken, and they give no new sign.
        if means_all and at_limit and self._taken_at is not None and now - self._taken_at < LIMIT_MS:
            self._limit_signs.append(now)
        return means_all
