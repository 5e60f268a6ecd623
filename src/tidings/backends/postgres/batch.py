"""Turns outcomes into the rows that PostgreSQL stores, and rows into the columns that travel to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar
from uuid import UUID

import msgspec
from msgspec import Struct

from tidings.model.ids import notification_of, slot_of
from tidings.model.notification import Notification
from tidings.model.outcome import Outcome
from tidings.model.vocabulary import State
from tidings.model.wire import encode
from tidings.policy.addresses import identity
from tidings.policy.letters import ON_REQUEST
from tidings.policy.transitions import rank

_encode_addresses = msgspec.msgpack.Encoder().encode

Row = TypeVar("Row", bound=tuple[object, ...])
_Event = tuple[UUID, int, int, int, int, str, str, str, str, str]
"""id, rank, step, attempt, at, reason, provider, reference, detail, address."""
_NotificationRow = tuple[UUID, str, str | None, str, int | None, bytes | None, bytes | None, bytes]
"""id, tenant, user_id, category, pending_at, pending_slots, pending_addresses, body."""


class _Draft(Struct):
    """A notification's row while a batch is read. `pending`: address by slot of deliveries that became pending then."""

    notification: Notification
    pending_at: int | None = None
    pending: dict[int, str] = {}

    def row(self) -> _NotificationRow:
        one = self.notification
        slots = bytes(self.pending) if self.pending else None
        addresses = _encode_addresses(list(self.pending.values())) if self.pending else None
        return (one.id, one.tenant, one.to.user_id, one.category, self.pending_at, slots, addresses, encode(one))


class Batch(Struct, frozen=True):
    """The rows of a batch of outcomes, sorted by key."""

    notifications: list[_NotificationRow]
    events: list[_Event]
    waits: list[tuple[UUID, int, int, int, UUID, int, str, bytes, bytes, int, bool, int]]
    suppressions: list[tuple[UUID, int, int, int, str, str, str]]
    letters: list[tuple[str, UUID]]
    """Tenant and id of the deliveries that an outcome of this batch may make a dead letter."""
    postponed: bool
    """True if some notifications had to wait before, so that their rows exist already."""

    @classmethod
    def of(cls, outcomes: Sequence[Outcome]) -> Batch:
        """The rows of these outcomes, without repetitions."""
        notifications: dict[UUID, _Draft] = {}
        events: list[_Event] = []
        waits: dict[tuple[UUID, int, int, int], tuple[UUID, int, str, bytes, bytes, int, bool, int]] = {}
        suppressions: dict[tuple[UUID, int, int, int], tuple[str, str, str]] = {}
        letters: set[tuple[str, UUID]] = set()
        for outcome in outcomes:
            id = outcome.id
            if (one := outcome.notification) is not None:
                draft = notifications.get(one.id)
                if draft is None:
                    draft = notifications[one.id] = _Draft(one)
                if _is_merely_pending(outcome, 0):
                    if draft.pending_at is None:
                        draft.pending_at = outcome.at
                    continue
            address = outcome.address
            if address is not None and _is_merely_pending(outcome, 1):
                draft = notifications.get(notification_of(id))
                if draft is not None and draft.pending_at == outcome.at:
                    draft.pending.setdefault(slot_of(id), address.value)
                    continue
            fact = (id, rank(outcome.state, outcome.attempt), outcome.step, outcome.attempt)
            events.append(
                (
                    *fact, outcome.at, outcome.reason, outcome.provider, outcome.reference, outcome.detail,
                    "" if address is None else address.value,
                )
            )  # fmt: skip
            if outcome.state in ON_REQUEST and slot_of(id):
                letters.add((outcome.tenant, id))
            if (wait := outcome.wait) is not None:
                key = wait.key.encode("utf-8", "surrogatepass")
                waits.setdefault(
                    fact,
                    (
                        notification_of(id), wait.due, wait.topic, key, wait.body, int(wait.repeated), wait.held,
                        wait.at_least_ms,
                    ),
                )  # fmt: skip
            if outcome.suppress and address is not None:
                known = identity(address)
                suppressions.setdefault(fact, (outcome.tenant, known.channel.value, known.value))
        events.sort(key=_event_order)
        return cls(
            [draft.row() for _, draft in sorted(notifications.items(), key=_notification_order)],
            events,
            [(*fact, *wait) for fact, wait in waits.items()],
            [(*fact, *suppression) for fact, suppression in suppressions.items()],
            sorted(letters),
            any(draft.notification.step for draft in notifications.values()),
        )

    @property
    def instants(self) -> list[int]:
        """The instants of the events, in milliseconds since the epoch."""
        return [event[4] for event in self.events]

    def cleaned(self) -> Batch:
        """The same batch with NUL and unpaired surrogates replaced, which PostgreSQL's text cannot hold."""
        return Batch(
            [_clean(row) for row in self.notifications],
            [_clean(row) for row in self.events],
            [_clean(row) for row in self.waits],
            [_clean(row) for row in self.suppressions],
            [_clean(row) for row in self.letters],
            self.postponed,
        )


def _is_merely_pending(outcome: Outcome, attempt: int) -> bool:
    """Whether the outcome needs no event, because the notification's row says it all.

    `attempt` is 0 for an outcome of the notification, 1 for an outcome of a delivery.
    """
    return (
        outcome.state is State.PENDING
        and outcome.attempt == attempt
        and (slot_of(outcome.id) == 0) == (attempt == 0)
        and (outcome.address is None) == (attempt == 0)
        and not (outcome.step or outcome.wait or outcome.suppress)
        and not (outcome.reason or outcome.provider or outcome.reference or outcome.detail)
    )


def _event_order(row: _Event) -> int:
    return (row[0].int << 32 | row[1]) << 32 | row[2]


def _notification_order(entry: tuple[UUID, object]) -> int:
    return entry[0].int


def columns(rows: Sequence[tuple[object, ...]], width: int) -> list[Sequence[object]]:
    """Rows as columns. A column of only zeros or empty values is sent as an empty array; the statements restore it."""
    return [column if any(column) else () for column in zip(*rows, strict=True)] if rows else [()] * width


def _clean(row: Row) -> Row:
    return tuple(  # type: ignore[return-value]  # each text stays a text
        value.encode("utf-8", "replace").decode().replace("\0", "\ufffd") if isinstance(value, str) else value
        for value in row
    )
