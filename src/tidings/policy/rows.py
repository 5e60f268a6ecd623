"""Turns rows of the history, from the store or the archive, into records."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import msgspec
from msgspec import Struct

from tidings.model.history import Event, NotificationRecord
from tidings.model.ids import delivery_id
from tidings.model.vocabulary import State
from tidings.model.wire import decode_notification
from tidings.policy.transitions import rank, state_of

_decode_addresses = msgspec.msgpack.Decoder(list[str]).decode


class Head(Struct, frozen=True):
    """The columns of a notification's row that reading needs."""

    id: UUID
    pending_at: int | None
    pending_slots: bytes | None
    pending_addresses: bytes | None
    body: bytes


def event_of(row: Sequence[object]) -> Event:
    """The fact in a row of the table `event`."""
    id, rank, step, attempt, at, reason, provider, reference, detail, address = row
    return Event(id, at, state_of(rank), attempt, step, reason, provider, reference, detail, address)  # type: ignore[arg-type]  # the columns' types are the schema's


def record_of(head: Head, events: list[Event]) -> NotificationRecord:
    """The notification with its facts, including the `pending` ones that its own row states."""
    if head.pending_at is not None:
        events.append(Event(head.id, head.pending_at, State.PENDING))
    if head.pending_at is not None and head.pending_slots and head.pending_addresses:
        recorded = {(event.id, event.state, event.attempt, event.step) for event in events}
        for slot, address in zip(head.pending_slots, _decode_addresses(head.pending_addresses), strict=True):
            id = delivery_id(head.id, slot)
            if (id, State.PENDING, 1, 0) not in recorded:
                events.append(Event(id, head.pending_at, State.PENDING, attempt=1, address=address))
    events.sort(key=lambda event: (event.at, event.attempt, event.step, rank(event.state, event.attempt), event.id))
    return NotificationRecord(decode_notification(head.body), tuple(events))
