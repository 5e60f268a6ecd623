"""Whom a provider means that asks for less: the account, or the one recipient that it refuses.

A provider that says so (by its code, or headers that speak of the account) is believed, and so are several recipients
in a row that are refused for the first time: then the account is meant until something is taken again. One recipient
that is refused again and again while the others are taken is meant alone, whatever the answer says.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence

from msgspec import Struct

SEVERAL = 3
"""So many recipients in a row mean the account."""
ENOUGH_TAKEN = 20
"""So many others taken, against a tenth of them refused, show that a recipient who is refused again is meant alone."""
FEWEST = 3
"""After a pause at least so many that waited are sent at once."""
_MOST_REMEMBERED = 10_000
_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 60.0
"""How long an account waits that was not told: doubled for as long as nothing is taken. What is asked for one recipient
counts for the account no longer than this: then it is asked again."""


class Refusal(Struct, frozen=True):
    """A recipient for whom a provider asked to wait. `request` tells apart the answers that one call got."""

    recipient: str
    request: int
    says_account: bool


class Throttling:
    """What one provider has refused lately, as this process sees it."""

    def __init__(self) -> None:
        self._row: set[str] = set()
        self._all_wait = False
        self._said = False
        self._taken = 0
        self._refused = 0
        self._known: OrderedDict[str, tuple[int, int]] = OrderedDict()
        self._of_this_round = 0
        self._let_out: int | None = None
        self.pauses = 0
        """How often the account was made to wait since something was taken."""

    def heard(self, refusals: Sequence[Refusal], taken: int) -> list[bool]:
        """A call had these refusals, and the provider dealt with `taken` others; for each refusal: is it the account's?

        An answer to a request with several recipients is one refusal: which of them is meant, nobody knows.
        """
        if taken:
            self._taken += taken
            self._of_this_round += taken
            self._row.clear()
            self._all_wait = False
            self.pauses = 0
        self._said = any(refusal.says_account for refusal in refusals)
        requests: set[int] = set()
        for refusal in refusals:
            fresh = refusal.recipient not in self._known
            if fresh and not taken and refusal.request not in requests:
                requests.add(refusal.request)
                self._row.add(refusal.recipient)
        self._all_wait = self._all_wait or len(self._row) >= SEVERAL
        return [self._means_all(refusal) for refusal in refusals]

    def pause_s(self, asked: Sequence[float | None], longest_s: float, *, goes_on: bool) -> float:
        """For how many seconds the account waits after what was heard last; `goes_on`: it waits already.

        `asked` are the seconds that the refusals asked for, `longest_s` bounds them.
        """
        wanted = max((after for after in asked if after is not None and after > 0), default=None)
        if wanted is None:
            wanted = min(math.ldexp(_PAUSE_S, min(self.pauses, 10)), _LONGEST_PAUSE_S)
        if not goes_on:
            self.pauses += 1
            self._let_out, self._of_this_round = max(FEWEST, self._of_this_round), 0
        return min(wanted, longest_s if self._said else min(longest_s, _LONGEST_PAUSE_S))

    def let_out(self, room: int) -> int:
        """How many of those that waited may follow now, where there is `room`.

        After a pause as many as were taken before it, and twice as many each time, until it asks for less again.
        """
        if self._let_out is None:
            return room
        allowed = min(self._let_out, room)
        self._let_out = None if self._let_out >= room else self._let_out * 2
        return allowed

    def _means_all(self, refusal: Refusal) -> bool:
        before = self._known.pop(refusal.recipient, None)
        self._refused += 1
        self._known[refusal.recipient] = (self._taken, self._refused)
        if len(self._known) > _MOST_REMEMBERED:
            self._known.popitem(last=False)
        if not refusal.says_account and not self._all_wait:
            return False
        if before is None:
            return True
        taken, refused = self._taken - before[0], self._refused - 1 - before[1]
        return taken < ENOUGH_TAKEN or refused * 10 > taken
