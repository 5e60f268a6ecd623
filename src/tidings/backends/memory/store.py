"""The store in memory, for tests and simulation."""

from __future__ import annotations

from tidings.backends.memory.accounts import MemoryAccounts, MemoryRounds, MemoryWatched
from tidings.backends.memory.caps import MemoryCaps
from tidings.backends.memory.clock import Now, SystemClock
from tidings.backends.memory.days import MemoryDays
from tidings.backends.memory.history import MemoryCancellations, MemoryChanges, MemoryHistory
from tidings.backends.memory.inbox import MemoryInbox
from tidings.backends.memory.recurrences import MemoryRecurrences
from tidings.backends.memory.replays import MemoryLetters, MemoryReplays
from tidings.backends.memory.schedule import MemorySchedule
from tidings.backends.memory.standings import MemoryStandings
from tidings.backends.memory.templates import MemoryTemplates
from tidings.backends.memory.tenants import MemoryIdempotency, MemoryTenants
from tidings.backends.memory.users import MemoryUsers

_MACHINE = SystemClock().now


class MemoryStore:
    """See Store. Nothing outlives the process. `clock` is the clock of the leases."""

    def __init__(self, clock: Now = _MACHINE) -> None:
        self.inbox = MemoryInbox()
        self.users = MemoryUsers(self.inbox)
        self.schedule = MemorySchedule(clock)
        self.history = MemoryHistory(self.schedule, self.users)
        self.recurrences = MemoryRecurrences(clock)
        self.changes = MemoryChanges(self.schedule, self.history)
        self.cancellations = MemoryCancellations(self.schedule)
        self.standings = MemoryStandings(self.users, self.schedule)
        self.templates = MemoryTemplates()
        self.tenants = MemoryTenants()
        self.idempotency = MemoryIdempotency(clock)
        self.letters = MemoryLetters(self.history)
        self.replays = MemoryReplays(clock)
        self.accounts = MemoryAccounts()
        self.days = MemoryDays(self.history, self.accounts)
        self.watched = MemoryWatched()
        self.rounds = MemoryRounds(clock)
        self.caps = MemoryCaps()

    async def ping(self) -> None:
        """See Store. It always answers."""

    async def close(self) -> None:
        """See Store. There is nothing to close."""
