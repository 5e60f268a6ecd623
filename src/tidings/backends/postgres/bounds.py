"""Where the live rows of a queue's table begin, so that a claim need not walk over dead ones to find them.

Rows die by the thousand a second, and while any snapshot is held (a report, a backup, a standby's feedback) none can be
cleaned away. A claim that begins at the lowest number would read them all.
"""

from __future__ import annotations

LONGEST_LAG = 5.0
"""Seconds after which the bound follows although an older transaction is still open: it is hardly one of ours."""


class Bound:
    """A number below which a queue holds nothing, as far as this process knows.

    Every look at the table gives the lowest number that is there. It becomes the bound only when each transaction that
    was open at that moment is over: one of them may have taken a lower number and commit it later. What is given back
    with its old number lowers the bound at once. What all this misses is found by a look that uses no bound.
    """

    def __init__(self) -> None:
        self.low = 0
        self._next: tuple[int, int, float] | None = None
        self._returned: int | None = None

    def begin(self) -> None:
        """A look begins: what is given back from now on, it may not have seen."""
        self._returned = None

    def lower(self, number: int) -> None:
        """An item with this number was given back."""
        self.low = min(self.low, number)
        self._returned = number if self._returned is None else min(self._returned, number)

    def looked(self, first: int, oldest_open: int, next_transaction: int, at: float) -> None:
        """What a look saw.

        `first` is the lowest number that is there, or the next one that will be given when there is none; `oldest_open`
        the oldest transaction that was open, and `next_transaction` the first that had not begun. `at` is when the look
        began, in seconds of any clock that only goes forward.
        """
        if self._next is not None:
            low, begun_before, since = self._next
            if oldest_open >= begun_before or at - since >= LONGEST_LAG:
                self.low = max(self.low, low)
                self._next = None
        self.low = min(self.low, first)
        if self._returned is not None:
            self.low = min(self.low, self._returned)
        if self._next is None:
            self._next = first, next_transaction, at

    def forget(self) -> None:
        """Nobody looks any more: begin at the lowest number again."""
        self.low, self._next = 0, None
