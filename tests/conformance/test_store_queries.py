"""The history's queries, on every adapter: pages of notifications by filter, and the tally."""

from __future__ import annotations

import itertools
from collections import Counter
from uuid import UUID

import pytest

from support import unique
from support.stores import NOW, accepted, fact, find_all, notification
from tidings.model.history import HistoryFilter, Tally
from tidings.model.outcome import Outcome
from tidings.model.vocabulary import Channel, Reason, State
from tidings.ports.store import Store


class TestFind:
    @pytest.fixture
    async def shop(self, store: Store, tenant: str) -> list[UUID]:
        """Twelve notifications of two users and two categories, oldest first. Each third one is delivered."""
        ids = []
        for index in range(12):
            sent = notification(
                tenant, NOW + index * 1000, ("ann", "bob")[index % 2], category=("orders", "news")[index // 6]
            )
            state = State.DELIVERED if index % 3 == 0 else State.SENT
            await store.history.append([accepted(sent), fact(sent, State.SENDING), fact(sent, state)])
            ids.append(sent.id)
        return ids

    @pytest.mark.parametrize("limit", [1, 5, 12, 50])
    async def test_all_newest_first_in_pages(self, store: Store, tenant: str, shop: list[UUID], limit: int) -> None:
        records = await find_all(store, tenant, HistoryFilter(), limit)
        assert [record.notification.id for record in records] == shop[::-1]
        assert all(len(record.events) == 3 for record in records)

    @pytest.mark.parametrize(
        ("filter", "wanted"),
        [
            (HistoryFilter(user_id="ann"), {0, 2, 4, 6, 8, 10}),
            (HistoryFilter(user_id="nobody"), set()),
            (HistoryFilter(category="news"), {6, 7, 8, 9, 10, 11}),
            (HistoryFilter(state=State.DELIVERED), {0, 3, 6, 9}),
            (HistoryFilter(state=State.FAILED), set()),
            (HistoryFilter(since=NOW + 9000), {9, 10, 11}),
            (HistoryFilter(until=NOW + 2000), {0, 1}),
            (HistoryFilter(since=NOW + 2000, until=NOW + 5000), {2, 3, 4}),
            (HistoryFilter("bob", State.SENT, "orders", NOW + 1000, NOW + 9000), {1, 5}),
        ],
    )
    async def test_filters(
        self, store: Store, tenant: str, shop: list[UUID], filter: HistoryFilter, wanted: set[int]
    ) -> None:
        for limit in (2, 100):
            records = await find_all(store, tenant, filter, limit)
            assert [record.notification.id for record in records] == [shop[index] for index in sorted(wanted)][::-1]

    async def test_another_tenant_sees_nothing(self, store: Store, shop: list[UUID]) -> None:
        assert await find_all(store, unique("other"), HistoryFilter(), 10) == []

    async def test_the_state_is_that_of_all_deliveries_together(self, store: Store, tenant: str) -> None:
        sent = notification(tenant)
        await store.history.append([accepted(sent)])
        assert len(await find_all(store, tenant, HistoryFilter(state=State.PENDING), 10)) == 1
        await store.history.append([fact(sent, State.SENT), fact(sent, State.DEFERRED, Channel.EMAIL)])
        assert len(await find_all(store, tenant, HistoryFilter(state=State.DEFERRED), 10)) == 1
        await store.history.append([fact(sent, State.FAILED, Channel.EMAIL)])
        assert len(await find_all(store, tenant, HistoryFilter(state=State.SENT), 10)) == 1
        await store.history.append([fact(sent, State.DELIVERED, Channel.EMAIL)])
        assert len(await find_all(store, tenant, HistoryFilter(state=State.DELIVERED), 10)) == 1
        assert await find_all(store, tenant, HistoryFilter(state=State.SENT), 10) == []

    async def test_a_notification_without_deliveries_has_its_own_state(self, store: Store, tenant: str) -> None:
        sent = notification(tenant)
        await store.history.append(
            [accepted(sent), Outcome(sent.id, tenant, NOW, State.SUPPRESSED, reason=Reason.OPTED_OUT)]
        )
        assert len(await find_all(store, tenant, HistoryFilter(state=State.SUPPRESSED), 10)) == 1


class TestTally:
    async def test_every_delivery_is_counted_once_in_its_state(self, store: Store, tenant: str) -> None:
        for index in range(6):
            sent = notification(tenant, NOW + index)
            await store.history.append(
                [
                    accepted(sent),
                    fact(sent, State.SENDING),
                    fact(sent, State.SENT if index < 4 else State.DELIVERED),
                    fact(sent, State.SUPPRESSED, Channel.EMAIL, attempt=0, reason=("opted_out", "muted")[index % 2]),
                ]
            )
        counted = {
            (tally.channel, tally.state, tally.reason): tally.count for tally in await store.history.tally(tenant)
        }
        assert {key: count for key, count in counted.items() if key[0] is not None} == {
            ("sms", State.SENT, ""): 4,
            ("sms", State.DELIVERED, ""): 2,
            ("email", State.SUPPRESSED, "opted_out"): 3,
            ("email", State.SUPPRESSED, "muted"): 3,
        }
        assert notifications(await store.history.tally(tenant)) == {State.SENT: 4, State.DELIVERED: 2}

    async def test_the_reason_is_that_of_the_furthest_fact(self, store: Store, tenant: str) -> None:
        sent = notification(tenant)
        facts = [
            fact(sent, State.DEFERRED, attempt=1, reason="throttled"),
            fact(sent, State.DEFERRED, attempt=2, reason="busy"),
            fact(sent, State.FAILED, attempt=2, reason="landline"),
        ]
        for order in itertools.permutations(facts):
            await store.history.append([accepted(sent), *order])
        assert Tally("sms", State.FAILED, "landline", 1) in await store.history.tally(tenant)

    async def test_notifications_without_deliveries(self, store: Store, tenant: str) -> None:
        pending, suppressed = notification(tenant), notification(tenant)
        await store.history.append([accepted(pending), accepted(suppressed)])
        await store.history.append([Outcome(suppressed.id, tenant, NOW, State.SUPPRESSED, reason="unknown_user")])
        counted = await store.history.tally(tenant)
        assert notifications(counted) == {State.PENDING: 1, State.SUPPRESSED: 1}
        assert Tally(None, State.SUPPRESSED, "unknown_user", 1) in counted

    async def test_since_and_tenant(self, store: Store, tenant: str) -> None:
        for index in range(4):
            await store.history.append([accepted(notification(tenant, NOW + index * 1000))])
        assert notifications(await store.history.tally(tenant, NOW + 1000)) == {State.PENDING: 3}
        assert list(await store.history.tally(unique("other"))) == []

    @pytest.mark.parametrize("state", list(State))
    async def test_the_identity_closes(self, store: Store, tenant: str, state: State) -> None:
        for index in range(3):
            sent = notification(tenant, NOW + index)
            await store.history.append([accepted(sent), fact(sent, State.SENDING, attempt=0), fact(sent, state)])
        assert sum(notifications(await store.history.tally(tenant)).values()) == 3
        assert notifications(await store.history.tally(tenant)) == {state: 3}


def notifications(tallies: object) -> dict[State, int]:
    """The notifications of a tally by state."""
    counted: Counter[State] = Counter()
    assert isinstance(tallies, list | tuple)
    for tally in tallies:
        if tally.channel is None:
            counted[tally.state] += tally.count
    return dict(counted)
