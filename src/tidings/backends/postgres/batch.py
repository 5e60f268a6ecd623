"""Outcomes as the rows that PostgreSQL stores, and as the columns that travel to it."""

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


class _Routed(Struct):
    """A notification's row in the making: `pending_at`, and the deliveries that were merely pending at that moment."""

    notification: Notification
    pending_at: int | None = None
    pending: dict[int, str] = {}

    def row(self) -> _NotificationRow:
        one = self.notification
        slots = bytes(self.pending) if self.pending else None
        addresses = _encode_addresses(list(self.pending.values())) if self.pending else None
        return (one.id, one.tenant, one.to.user_id, one.category, self.pending_at, slots, addresses, encode(one))


class Batch(Struct, frozen=True):
    """Outcomes as rows, sorted by key."""

    notifications: list[_NotificationRow]
    events: list[_Event]
    waits: list[tuple[UUID, int, int, int, UUID, int, str, bytes, bytes, int, bool]]
    suppressions: list[tuple[UUID, int, int, int, str, str, str]]
    letters: list[tuple[str, UUID]]
    """Tenant and id of the deliveries of which a fact can make a dead letter."""
    returning: bool
    """Whether some notifications were put off, and have their row already."""

    @classmethod
    def of(cls, outcomes: Sequence[Outcome]) -> Batch:
        """The rows of these outcomes, each fact once."""
        notifications: dict[UUID, _Routed] = {}
        events: list[_Event] = []
        waits: dict[tuple[UUID, int, int, int], tuple[UUID, int, str, bytes, bytes, int, bool]] = {}
        suppressions: dict[tuple[UUID, int, int, int], tuple[str, str, str]] = {}
        letters: set[tuple[str, UUID]] = set()
        for outcome in outcomes:
            id = outcome.id
            if (one := outcome.notification) is not None:
                routed = notifications.get(one.id)
                if routed is None:
                    routed = notifications[one.id] = _Routed(one)
                if _is_merely_pending(outcome, 0):
                    if routed.pending_at is None:
                        routed.pending_at = outcome.at
                    continue
            address = outcome.address
            if address is not None and _is_merely_pending(outcome, 1):
                routed = notifications.get(notification_of(id))
                if routed is not None and routed.pending_at == outcome.at:
                    routed.pending.setdefault(slot_of(id), address.value)
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
                    (notification_of(id), wait.due, wait.topic, key, wait.body, int(wait.repeated), wait.held),
                )
            if outcome.suppress and address is not None:
                known = identity(address)
                suppressions.setdefault(fact, (outcome.tenant, known.channel.value, known.value))
        events.sort(key=_event_order)
        return cls(
            [routed.row() for _, routed in sorted(notifications.items(), key=_notification_order)],
            events,
            [(*fact, *wait) for fact, wait in waits.items()],
            [(*fact, *suppression) for fact, suppression in suppressions.items()],
            sorted(letters),
            any(routed.notification.step for routed in notifications.values()),
        )

    @property
    def instants(self) -> list[int]:
        """When the facts happened, in milliseconds since the epoch."""
        return [event[4] for event in self.events]

    def cleaned(self) -> Batch:
        """The same with texts that PostgreSQL can hold."""
        return Batch(
            [_clean(row) for row in self.notifications],
            [_clean(row) for row in self.events],
            [_clean(row) for row in self.waits],
            [_clean(row) for row in self.suppressions],
            [_clean(row) for row in self.letters],
            self.returning,
        )


def _is_merely_pending(outcome: Outcome, attempt: int) -> bool:
    """Whether the notification's row can say all of it: of the notification (attempt 0) or a delivery (1)."""
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
    """Rows as columns. One that says nothing (all empty, all zero) stays empty: the statements fill it in."""
    return [column if any(column) else () for column in zip(*rows, strict=True)] if rows else [()] * width


def _clean(row: Row) -> Row:
    return tuple(  # type: ignore[return-value]  # each text stays a text
        value.encode("utf-8", "replace").decode().replace("\0", "\ufffd") if isinstance(value, str) else value
        for value in row
    )
