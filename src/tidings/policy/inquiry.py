"""When to ask a failing provider whether it is well again. A question sends nothing through the provider.

Questions are cheap, so the pauses between them are short. After each answer "well" that the next send disproves, the
next question comes later, because every failed send costs a delivery one more look.

Instants are milliseconds of a clock that only goes forward.
"""

from __future__ import annotations

FIRST_PAUSE_MS = 5_000
LONGEST_PAUSE_MS = 60_000
"""The longest pause between two questions while the answer is no."""
LONGEST_DOUBT_MS = 1_800_000
"""The longest pause after a provider said repeatedly that it was well, and failed each time."""


class Inquiry:
    """What one provider says about its own health. Before the first failure it counts as well."""

    def __init__(self) -> None:
        self._fails = False
        self._says_well = False
        self._due = 0
        self._noes = 0
        self._broken_promises = 0

    @property
    def fails(self) -> bool:
        """Whether the provider's last call failed and it has not said since that it is well."""
        return self._fails and not self._says_well

    @property
    def says_well(self) -> bool:
        """Whether the provider said that it is well after its last call failed. No send has proven it yet."""
        return self._says_well

    def failed(self, now: int) -> None:
        """Note that a call failed through the provider's own fault, or that the provider is too slow to be used."""
        if self._fails and not self._says_well:
            return
        if self._says_well:
            self._broken_promises += 1
        self._fails, self._says_well, self._noes = True, False, 0
        self._due = now + min(FIRST_PAUSE_MS << min(self._broken_promises, 30), LONGEST_DOUBT_MS)

    def succeeded(self) -> bool:
        """Note that a call succeeded. Returns whether the provider failed until now."""
        failed_until_now = self.fails
        self._fails = self._says_well = False
        self._broken_promises = 0
        return failed_until_now

    def due(self, now: int) -> int | None:
        """How many milliseconds until the next question, 0 for now; None unless the provider fails."""
        return max(0, self._due - now) if self.fails else None

    def begin(self, now: int) -> bool:
        """Whether to ask now. If so, also sets when to ask next if the answer is no."""
        if self.due(now) != 0:
            return False
        self._noes += 1
        self._due = now + min(FIRST_PAUSE_MS << min(self._noes, 30), LONGEST_PAUSE_MS)
        return True

    def answered_well(self) -> None:
        """Note that the provider says that it is well."""
        if self._fails:
            self._says_well = True
