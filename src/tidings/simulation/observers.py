"""Who watches from outside and believes nothing that the system says of itself."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from enum import StrEnum
from uuid import UUID

from msgspec import Struct

from tidings.backends.memory.history import MemoryHistory
from tidings.backends.memory.schedule import MemorySchedule
from tidings.backends.memory.users import MemoryUsers
from tidings.model.history import Event, NotificationRecord
from tidings.model.ids import notification_of, slot_of
from tidings.model.outcome import Outcome
from tidings.model.user import Address, Category, Preferences, Profile
from tidings.policy.transitions import rank, state_of
from tidings.ports.users import UserKey
from tidings.simulation.scenario import Asked


class Rule(StrEnum):
    """What must hold."""

    RUNS = "the processes run until they are killed"
    RESTS = "everything comes to rest"
    READABLE = "nothing goes aside"
    KEPT = "nothing that was accepted is lost"
    ANSWERED_ONCE = "one Idempotency-Key is one answer"
    MADE_ONCE = "one request is one notification"
    SENT_ONCE = "nobody gets a delivery twice"
    TRIED_ONCE = "an attempt is made once"
    COPIES = "a delivery that was known to be on its way twice is sent once"
    SENT_IS_TAKEN = "what is called sent was taken"
    TAKEN_IS_SENT = "what was taken is called sent, or uncertain"
    DOUBT_IS_OFFERED = "what is uncertain was offered, or was about to be"
    WISHES = "nothing is sent against a wish, or to an address that is not the person's"
    WITHHELD = "nothing is withheld without a reason"
    SAID = "a vendor is told what was asked"
    PAUSES = "a provider that asks for a pause gets it"
    WAITING_ENDS = "what waits for a provider goes on when one is well"
    FORWARDS = "no state moves backwards"
    APPEND_ONLY = "no fact is changed"
    EACH_OCCURRENCE_ONCE = "each occurrence of a recurrence comes once"
    CAPS = "nobody gets more than a cap permits"
    HEALS = "when the faults are over, every provider is used again"
    BALANCE = "the books balance"


LIMITS = frozenset({Rule.COPIES})
"""What is nearly always kept, and cannot be always: docs/reliability.md, "A recorder that is far behind"."""


class Violation(Struct, frozen=True):
    """A rule that was broken, and how."""

    rule: Rule
    text: str

    def __str__(self) -> str:
        return f"{self.rule.value}: {self.text}"


class Ledger:
    """What clients were told: for each request, every answer; None stands for a notification that was refused."""

    def __init__(self) -> None:
        self.answers: dict[Asked, list[tuple[UUID | None, ...]]] = {}
        self.tries: dict[Asked, int] = {}

    def told(self) -> dict[UUID, str]:
        """Every id that a client holds, with its tenant."""
        return {
            id: asked.tenant
            for asked, answers in self.answers.items()
            for ids in answers
            for id in ids
            if id is not None
        }

    def ids_of(self, asked: Asked, number: int) -> set[UUID | None]:
        """What was answered for the notification with this number."""
        place = asked.numbers.index(number)
        return {answer[place] for answer in self.answers.get(asked, ())}

    def id_of(self, number: int) -> UUID | None:
        """The id of the notification with this number, once a client was told it."""
        for asked in self.answers:
            if number in asked.numbers:
                return next((id for id in self.ids_of(asked, number) if id is not None), None)
        return None


class Wishes:
    """What people wanted, and which addresses were barred, at every instant (virtual seconds)."""

    def __init__(self) -> None:
        self._people: dict[UserKey, list[tuple[float, Profile | None, Preferences]]] = {}
        self._barred: dict[tuple[str, Address], list[tuple[float, bool]]] = {}
        self._categories: dict[tuple[str, str], list[tuple[float, Category]]] = {}
        self.cancelled: dict[UUID, float] = {}

    def person(self, at: float, key: UserKey, profile: Profile | None, preferences: Preferences) -> None:
        """They are set anew."""
        self._people.setdefault(key, []).append((at, profile, preferences))

    def address(self, at: float, tenant: str, address: Address, *, barred: bool) -> None:
        """It is put on the suppression list, or taken off."""
        self._barred.setdefault((tenant, address), []).append((at, barred))

    def category(self, at: float, tenant: str, category: Category) -> None:
        """It is declared, or declared anew."""
        self._categories.setdefault((tenant, category.name), []).append((at, category))

    def categories(
        self, tenant: str, name: str, since: float = -math.inf, until: float = math.inf
    ) -> Sequence[Category]:
        """What the category was at some instant from `since` to `until`; by default all that it ever was."""
        versions = [(-math.inf, Category(name)), *self._categories.get((tenant, name), ())]
        if versions[1:] and versions[1][0] <= 0.0:
            del versions[0]  # it was there from the first
        ends = [at for at, _ in versions[1:]] + [math.inf]
        return [category for (at, category), end in zip(versions, ends, strict=True) if at <= until and end > since]

    def versions(self, key: UserKey) -> Sequence[tuple[Profile | None, Preferences]]:
        """All that somebody ever was and wanted."""
        return [(profile, preferences) for _, profile, preferences in self._people.get(key, ())]

    def incarnation(self, key: UserKey, at: float) -> int:
        """Which of those who had the id one after the other had it at this instant; 0 for the first."""
        return sum(since <= at and profile is None for since, profile, _ in self._people.get(key, ()))

    def was_barred(self, tenant: str, address: Address) -> bool:
        """Whether the address ever was on the suppression list."""
        return any(barred for _, barred in self._barred.get((tenant, address), ()))

    def of(self, key: UserKey, at: float) -> tuple[Profile | None, Preferences]:
        """What somebody asking at this instant was told."""
        found: tuple[Profile | None, Preferences] = (None, Preferences())
        for since, profile, preferences in self._people.get(key, ()):
            if since <= at:
                found = profile, preferences
        return found

    def is_barred(self, tenant: str, address: Address, at: float) -> bool:
        """Whether the address was on the suppression list at this instant."""
        found = False
        for since, barred in self._barred.get((tenant, address), ()):
            if since <= at:
                found = barred
        return found


class Seen(Struct):
    """What a reader last saw of a notification."""

    events: frozenset[Event]
    ranks: dict[UUID, int]


class WatchedHistory(MemoryHistory):
    """History with a reader that looks after every change."""

    def __init__(self, schedule: MemorySchedule, users: MemoryUsers) -> None:
        super().__init__(schedule, users)
        self.seen: dict[UUID, Seen] = {}
        self.complaints: list[Violation] = []

    async def append(self, outcomes: Sequence[Outcome]) -> Mapping[str, int]:
        """See History."""
        refused = await super().append(outcomes)
        for id in dict.fromkeys(notification_of(outcome.id) for outcome in outcomes):
            notification = self._notifications.get(id)
            if notification is not None:
                self._look(self._record(notification))
        return refused

    def _look(self, record: NotificationRecord) -> None:
        id = record.notification.id
        ranks: dict[UUID, int] = {}
        for event in record.events:
            ranks[event.id] = max(rank(event.state, event.attempt), ranks.get(event.id, 0))
        now = Seen(frozenset(record.events), ranks)
        before = self.seen.get(id)
        self.seen[id] = now
        if before is None:
            return
        if not before.events <= now.events:
            self.complaints.append(Violation(Rule.APPEND_ONLY, f"{id}: recorded facts were changed"))
        for delivery, place in before.ranks.items():
            if ranks[delivery] < place and slot_of(delivery):
                state = state_of(ranks[delivery]).value
                self.complaints.append(Violation(Rule.FORWARDS, f"{delivery}: its state moved backwards, to {state}"))
