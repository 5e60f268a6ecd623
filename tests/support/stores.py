"""Every adapter of the ports in ports/store.py behind one fixture, `store`, and short ways to create model objects."""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID
from weakref import WeakKeyDictionary

import pytest

from support import unique
from tidings.backends.memory.store import MemoryStore
from tidings.backends.postgres.store import PostgresStore
from tidings.model.history import HistoryFilter, NotificationRecord
from tidings.model.ids import delivery_id, new_id, stable_bucket
from tidings.model.notification import Content, Notification, Recipient, SmsContent
from tidings.model.outcome import Outcome
from tidings.model.user import Address
from tidings.model.vocabulary import Channel, State
from tidings.policy.routing import FIRST_SLOT
from tidings.ports.store import Store

NOW = time.time_ns() // 1_000_000
"""The instant around which tests take place (milliseconds since the epoch)."""


@pytest.fixture(params=["memory", "postgres"])
async def store(request: pytest.FixtureRequest, store_location: str) -> AsyncIterator[Store]:
    """Every adapter in turn, empty."""
    if request.param == "memory":
        yield MemoryStore(TurnedClock())
        return
    opened = await PostgresStore.open(store_location)
    yield opened
    await opened.close()


class TurnedClock:
    """A store's clock that shows the machine's time, or the time that it was turned to."""

    def __init__(self) -> None:
        self.at: int | None = None

    def __call__(self) -> int:
        """Milliseconds since the epoch."""
        return time.time_ns() // 1_000_000 if self.at is None else self.at


_turned: WeakKeyDictionary[Store, int] = WeakKeyDictionary()


async def turn(store: Store, at: int) -> None:
    """Set the store's own clock, by which leases end, to this instant."""
    if isinstance(store, MemoryStore):
        clock = store.idempotency._clock
        assert isinstance(clock, TurnedClock)
        clock.at = at
        return
    assert isinstance(store, PostgresStore)
    if _turned.get(store) == at:
        return
    _turned[store] = at
    await store._pool.execute(
        f"CREATE OR REPLACE FUNCTION lease_clock() RETURNS bigint LANGUAGE sql VOLATILE AS 'SELECT {at}::bigint'"
    )


@pytest.fixture
def store_location(request: pytest.FixtureRequest) -> str:
    """The location of the present parameter's store."""
    kind = request.node.callspec.params["store"]
    return str(request.getfixturevalue("postgres_dsn")) if kind == "postgres" else ""


@pytest.fixture
def tenant() -> str:
    """A tenant that no other test uses."""
    return unique("tenant")


_randomness = random.Random()


def notification(tenant: str, at: int = NOW, user_id: str | None = "ann", **fields: Any) -> Notification:
    """An accepted notification for `user_id`."""
    id = new_id(at, stable_bucket(tenant, user_id or ""), _randomness.getrandbits(54))
    content = Content(sms=SmsContent("Your parcel has arrived."))
    return Notification(
        id=id, tenant=tenant, to=Recipient(user_id=user_id), accepted_at=at, **({"content": content} | fields)
    )


def delivery(of: Notification, channel: Channel = Channel.SMS) -> UUID:
    """The id of the notification's (first) delivery on `channel`."""
    return delivery_id(of.id, FIRST_SLOT[channel])


def accepted(of: Notification) -> Outcome:
    """The outcome `pending` of a notification, with the notification."""
    return Outcome(of.id, of.tenant, of.accepted_at, State.PENDING, notification=of)


def fact(of: Notification, state: State, channel: Channel = Channel.SMS, **fields: Any) -> Outcome:
    """An outcome of the notification's delivery on `channel`."""
    known: dict[str, Any] = {"at": of.accepted_at + 1000, "attempt": 1, "address": Address(channel, "+4930123456")}
    return Outcome(id=delivery(of, channel), tenant=of.tenant, state=state, **(known | fields))


async def find_all(store: Store, tenant: str, filter: HistoryFilter, limit: int) -> list[NotificationRecord]:
    """All pages, one after the other."""
    records: list[NotificationRecord] = []
    before: UUID | None = None
    for _ in range(100):
        page = await store.history.find(tenant, filter, before, limit)
        assert len(page.records) <= limit
        records += page.records
        if page.cursor is None:
            return records
        before = page.cursor
    raise AssertionError("the pages do not end")
