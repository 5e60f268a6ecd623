"""The lowest id at which live rows of a queue's table begin, so that a claim does not read dead rows to find them.

Thousands of rows die every second. While any snapshot is open (of a report, a backup, a standby's feedback), vacuum
cannot remove them, and a claim that started at the lowest id would read them all.
"""

from __future__ import annotations

LONGEST_LAG_S = 5.0
"""Seconds after which the bound moves although an older transaction is still open: ours do not last that long."""


class Bound:
    """An id below which the table holds no items, as far as this process knows.

    Every look at the table finds the lowest id. It becomes the bound only after all transactions that were open at that
    moment have ended, because one of them may hold a lower id and commit later. An item that is given back with its old
    id lowers the bound at once. A look without a bound finds whatever all this misses.
    """

    def __init__(self) -> None:
        self.low = 0
        self._next: tuple[int, int, float] | None = None
        self._returned: int | None = None

    def begin(self) -> None:
        """A look begins. It may miss items that are given back from now on."""
        self._returned = None

    def lower(self, number: int) -> None:
        """An item with the id `number` was given back."""
        self.low = min(self.low, number)
        self._returned = number if self._returned is None else min(self._returned, number)

    def looked(self, first: int, oldest_open: int, next_transaction: int, at: float) -> None:
        """Take in the result of a look.

        `first` is the lowest id in the table or, if the table is empty, the next id that will be given. `oldest_open`
        is the oldest open transaction and `next_transaction` the first that had not begun. `at` is when the look began,
        in seconds of a clock that never goes back.
        """
        if self._next is not None:
            low, begun_before, since = self._next
            if oldest_open >= begun_before or at - since >= LONGEST_LAG_S:
                self.low = max(self.low, low)
                self._next = None
        self.low = min(self.low, first)
        if self._returned is not None:
            self.low = min(self.low, self._returned)
        if self._next is None:
            self._next = first, next_transaction, at

    def forget(self) -> None:
        """Looks have stopped: start claims at the lowest id again."""
        self.low, self._next = 0, None
