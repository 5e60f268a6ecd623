"""When to ask a provider that fails whether it is well again, without sending anything through it.

Asking costs nobody anything, so the pauses between two questions are short. A provider that says it is well and then
fails the next send is believed less and less: each send that fails costs a delivery one more look.

Instants and spans are milliseconds of a clock that only goes forward.
"""

from __future__ import annotations

FIRST_PAUSE_MS = 5_000
LONGEST_PAUSE_MS = 60_000
"""Between two questions while the answer is no."""
LONGEST_DOUBT_MS = 1_800_000
"""Until the next question to a provider that said it was well, again and again, and failed each time."""


class Inquiry:
    """What is known of one provider's health between its sends. At first it is taken to be well."""

    def __init__(self) -> None:
        self._fails = False
        self._says_well = False
        self._due = 0
        self._noes = 0
        self._broken_promises = 0

    @property
    def fails(self) -> bool:
        """Whether its last call failed, and it has not said since that it is well."""
        return self._fails and not self._says_well

    @property
    def says_well(self) -> bool:
        """Whether it said that it is well after its last call failed. No send has shown it yet."""
        return self._says_well

    def failed(self, now: int) -> None:
        """A call failed through the provider's own fault, or the provider is too slow to be used."""
        if self._fails and not self._says_well:
            return
        if self._says_well:
            self._broken_promises += 1
        self._fails, self._says_well, self._noes = True, False, 0
        self._due = now + min(FIRST_PAUSE_MS << min(self._broken_promises, 30), LONGEST_DOUBT_MS)

    def succeeded(self) -> None:
        """A call succeeded."""
        self._fails = self._says_well = False
        self._broken_promises = 0

    def due(self, now: int) -> int | None:
        """In how many milliseconds to ask, 0 for now; None unless the provider fails."""
        return max(0, self._due - now) if self.fails else None

    def begin(self, now: int) -> bool:
        """Whether to ask now. True also sets the next time, should the answer be no."""
        if self.due(now) != 0:
            return False
        self._noes += 1
        self._due = now + min(FIRST_PAUSE_MS << min(self._noes, 30), LONGEST_PAUSE_MS)
        return True

    def answered_well(self) -> None:
        """The provider says that it is well."""
        if self._fails:
            self._says_well = True
