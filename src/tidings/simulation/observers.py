"""The observers: they record the run from outside the system, and do not rely on what the system says of itself."""

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
from tidings.simulation.scenario import ClientRequest, Patched


class Rule(StrEnum):
    """What must hold in every run."""

    RUNS = "the processes run until they are killed"
    RESTS = "everything comes to rest"
    READABLE = "nothing goes aside"
    KEPT = "nothing that was accepted is lost"
    ANSWERED_ONCE = "requests with one Idempotency-Key get one answer"
    MADE_ONCE = "one request makes one notification"
    SENT_ONCE = "no delivery is sent twice"
    TRIED_ONCE = "an attempt is made once"
    COPIES = "a delivery that is known to be on its way twice is sent once"
    SENT_IS_TAKEN = "a delivery recorded as sent was taken by a vendor"
    TAKEN_IS_SENT = "a delivery that a vendor took is recorded as sent or uncertain"
    DOUBT_IS_OFFERED = "an uncertain delivery was offered, or was about to be"
    WISHES = "nothing is sent against a person's wish, or to an address that is not theirs"
    WITHHELD = "nothing is suppressed without a reason"
    SAID = "a vendor gets the content that was requested"
    IN_TIME = "nothing is sent before its send time"
    PAUSES = "a provider that asks for a pause gets it"
    WAITING_ENDS = "a delivery that waits for a provider goes on when one is well"
    FORWARDS = "no state moves backwards"
    APPEND_ONLY = "no recorded fact is changed"
    EACH_OCCURRENCE_ONCE = "each occurrence of a recurrence is sent once"
    CAPS = "nobody gets more than a cap permits"
    HEALS = "when the faults are over, every provider is used again"
    BALANCE = "the accounts add up"


KNOWN_LIMITS = frozenset({Rule.COPIES})
"""Rules that can be broken in rare cases: docs/reliability.md, "A recorder that is far behind"."""


class Violation(Struct, frozen=True):
    """One case in which a rule was broken; `text` says how."""

    rule: Rule
    text: str

    def __str__(self) -> str:
        return f"{self.rule.value}: {self.text}"


class Ledger:
    """Every answer to each request: the ids of its notifications, or None for a refused one."""

    def __init__(self) -> None:
        self.answers: dict[ClientRequest, list[tuple[UUID | None, ...]]] = {}
        self.tries: dict[ClientRequest, int] = {}

    def accepted_ids(self) -> dict[UUID, str]:
        """Every id that a client got, with its tenant."""
        return {
            id: request.tenant
            for request, answers in self.answers.items()
            for ids in answers
            for id in ids
            if id is not None
        }

    def ids_of(self, request: ClientRequest, number: int) -> set[UUID | None]:
        """All answers for the notification with this number."""
        place = request.numbers.index(number)
        return {answer[place] for answer in self.answers.get(request, ())}

    def id_of(self, number: int) -> UUID | None:
        """The id of the notification with this number, if a client got it already."""
        for request in self.answers:
            if number in request.numbers:
                return next((id for id in self.ids_of(request, number) if id is not None), None)
        return None


class Wishes:
    """The profiles, preferences, suppressed addresses and categories at every instant (in virtual seconds)."""

    def __init__(self) -> None:
        self._persons: dict[UserKey, list[tuple[float, Profile | None, Preferences]]] = {}
        self._suppressed: dict[tuple[str, Address], list[tuple[float, bool]]] = {}
        self._categories: dict[tuple[str, str], list[tuple[float, Category]]] = {}
        self.cancelled: dict[UUID, float] = {}
        self.patched: dict[UUID, Patched] = {}
        """The changes that clients made to waiting notifications."""

    def set_person(self, at: float, key: UserKey, profile: Profile | None, preferences: Preferences) -> None:
        """Note a new profile and preferences; no profile means that the user was deleted."""
        self._persons.setdefault(key, []).append((at, profile, preferences))

    def set_suppressed(self, at: float, tenant: str, address: Address, *, suppressed: bool) -> None:
        """Note that the address was put on the suppression list, or taken off."""
        self._suppressed.setdefault((tenant, address), []).append((at, suppressed))

    def set_category(self, at: float, tenant: str, category: Category) -> None:
        """Note a new version of the category."""
        self._categories.setdefault((tenant, category.name), []).append((at, category))

    def categories(
        self, tenant: str, name: str, since: float = -math.inf, until: float = math.inf
    ) -> Sequence[Category]:
        """All versions of the category that were valid between `since` and `until`; by default all versions."""
        versions = [(-math.inf, Category(name)), *self._categories.get((tenant, name), ())]
        if versions[1:] and versions[1][0] <= 0.0:
            del versions[0]  # it was declared before the run began
        ends = [at for at, _ in versions[1:]] + [math.inf]
        return [category for (at, category), end in zip(versions, ends, strict=True) if at <= until and end > since]

    def versions(self, key: UserKey) -> Sequence[tuple[Profile | None, Preferences]]:
        """All profiles and preferences that the user ever had."""
        return [(profile, preferences) for _, profile, preferences in self._persons.get(key, ())]

    def incarnation(self, key: UserKey, at: float) -> int:
        """The incarnation of the user id at this instant; 0 for the first user with this id."""
        return sum(since <= at and profile is None for since, profile, _ in self._persons.get(key, ()))

    def was_suppressed(self, tenant: str, address: Address) -> bool:
        """Whether the address ever was on the suppression list."""
        return any(suppressed for _, suppressed in self._suppressed.get((tenant, address), ()))

    def person_at(self, key: UserKey, at: float) -> tuple[Profile | None, Preferences]:
        """The profile and preferences at this instant."""
        found: tuple[Profile | None, Preferences] = (None, Preferences())
        for since, profile, preferences in self._persons.get(key, ()):
            if since <= at:
                found = profile, preferences
        return found

    def is_suppressed(self, tenant: str, address: Address, at: float) -> bool:
        """Whether the address was on the suppression list at this instant."""
        found = False
        for since, suppressed in self._suppressed.get((tenant, address), ()):
            if since <= at:
                found = suppressed
        return found


class Snapshot(Struct):
    """A notification as it was read after the last change: its events, and the rank of each delivery."""

    events: frozenset[Event]
    ranks: dict[UUID, int]


class WatchedHistory(MemoryHistory):
    """History that is read back and compared after every write."""

    def __init__(self, schedule: MemorySchedule, users: MemoryUsers) -> None:
        super().__init__(schedule, users)
        self.seen: dict[UUID, Snapshot] = {}
        self.violations: list[Violation] = []

    async def append(self, outcomes: Sequence[Outcome]) -> Mapping[str, int]:
        """See History."""
        refused = await super().append(outcomes)
        for id in dict.fromkeys(notification_of(outcome.id) for outcome in outcomes):
            notification = self._notifications.get(id)
            if notification is not None:
                self._compare(self._record(notification))
        return refused

    def _compare(self, record: NotificationRecord) -> None:
        id = record.notification.id
        ranks: dict[UUID, int] = {}
        for event in record.events:
            ranks[event.id] = max(rank(event.state, event.attempt), ranks.get(event.id, 0))
        now = Snapshot(frozenset(record.events), ranks)
        before = self.seen.get(id)
        self.seen[id] = now
        if before is None:
            return
        if not before.events <= now.events:
            self.violations.append(Violation(Rule.APPEND_ONLY, f"{id}: recorded facts were changed"))
        for delivery, place in before.ranks.items():
            if ranks[delivery] < place and slot_of(delivery):
                state = state_of(ranks[delivery]).value
                self.violations.append(Violation(Rule.FORWARDS, f"{delivery}: its state moved backwards, to {state}"))
