"""The promises of ports/accounts.py (accounts, watched notifications, rounds), on every adapter."""

from __future__ import annotations

import random
from collections import Counter
from uuid import UUID, uuid4

import pytest

from support import unique
from support.stores import NOW, accepted, delivery, fact, notification, turn
from tidings.model.accounting import MINUTE_MS, AcceptedCount, Gap
from tidings.model.history import InboxItem
from tidings.model.outcome import Outcome, Wait
from tidings.model.user import Address
from tidings.model.vocabulary import Channel, Reason, State
from tidings.policy.transitions import IN_FLIGHT
from tidings.ports.store import Store

THIS = NOW // MINUTE_MS


def planned(of: object, channel: Channel) -> Outcome:
    """The outcome `pending` of routing, which the notification's row holds."""
    known = fact(of, State.PENDING, channel)  # type: ignore[arg-type]
    return Outcome(known.id, known.tenant, NOW, State.PENDING, attempt=1, address=Address(channel, "x"))


class TestAccounts:
    async def test_counts_of_several_counters_are_summed(self, store: Store, tenant: str) -> None:
        one, two = uuid4(), uuid4()
        await store.accounts.count(one, [AcceptedCount(tenant, THIS, 3), AcceptedCount(tenant, THIS + 1, 1)])
        await store.accounts.count(two, [AcceptedCount(tenant, THIS, 4)])
        assert await store.accounts.accepted(THIS, THIS + 2, tenant) == [
            AcceptedCount(tenant, THIS, 7),
            AcceptedCount(tenant, THIS + 1, 1),
        ]
        assert await store.accounts.accepted(THIS, THIS + 1, tenant) == [AcceptedCount(tenant, THIS, 7)]

    async def test_a_count_that_is_written_again_counts_once(self, store: Store, tenant: str) -> None:
        counter = uuid4()
        for count in (3, 5, 5, 4):  # the last one is an older total that arrives late
            await store.accounts.count(counter, [AcceptedCount(tenant, THIS, count)])
        assert await store.accounts.accepted(THIS, THIS + 1, tenant) == [AcceptedCount(tenant, THIS, 5)]

    async def test_tenants_are_apart(self, store: Store, tenant: str) -> None:
        other = unique("other")
        await store.accounts.count(uuid4(), [AcceptedCount(tenant, THIS, 1), AcceptedCount(other, THIS, 2)])
        assert await store.accounts.accepted(THIS, THIS + 1, other) == [AcceptedCount(other, THIS, 2)]
        everyone = await store.accounts.accepted(THIS, THIS + 1)
        assert {one.tenant: one.count for one in everyone} == {tenant: 1, other: 2}

    async def test_old_counts_are_pruned_the_oldest_first(self, store: Store, tenant: str) -> None:
        counts = [AcceptedCount(tenant, THIS - ago, 1) for ago in (0, 9, 8, 7)]
        await store.accounts.count(uuid4(), counts)
        assert await store.accounts.prune_counts(THIS, 2) == 2
        assert [one.minute for one in await store.accounts.accepted(0, THIS, tenant)] == [THIS - 7]
        assert await store.accounts.prune_counts(THIS, 2) == 1
        assert await store.accounts.prune_counts(THIS, 2) == 0
        assert await store.accounts.accepted(0, THIS + 1, tenant) == [AcceptedCount(tenant, THIS, 1)]

    async def test_a_gap_is_kept_replaced_and_closed(self, store: Store, tenant: str) -> None:
        other = unique("other")
        await store.accounts.mark_gaps([Gap(tenant, THIS, 3), Gap(other, THIS, 1)])
        await store.accounts.mark_gaps([Gap(tenant, THIS, 2, confirmed=True)])
        assert await store.accounts.gaps(tenant) == [Gap(tenant, THIS, 2, confirmed=True)]
        assert len(await store.accounts.gaps()) == 2
        await store.accounts.mark_gaps([Gap(tenant, THIS, 0)])
        assert await store.accounts.gaps() == [Gap(other, THIS, 1)]
        await store.accounts.mark_gaps([])


class TestWatched:
    async def test_what_is_watched_is_due_at_its_instant(self, store: Store) -> None:
        ids = [UUID(int=number) for number in range(1, 5)]
        await store.watched.watch([(id, NOW - place) for place, id in enumerate(ids)])
        await store.watched.watch([(ids[0], NOW - 7), (ids[0], NOW + 1), (ids[1], NOW - 9)])
        assert await store.watched.due(NOW, 10) == [ids[1], ids[3], ids[2]]
        assert await store.watched.due(NOW, 1) == [ids[1]]
        await store.watched.unwatch(ids[1:3])
        await store.watched.unwatch([])
        assert await store.watched.due(NOW + 1, 10) == [ids[3], ids[0]]


class TestRounds:
    async def test_one_holder_at_a_time(self, store: Store) -> None:
        name, one, two = unique("round"), uuid4(), uuid4()
        assert await store.rounds.begin(name, one, 60) == 0
        assert await store.rounds.begin(name, two, 60) is None
        assert await store.rounds.advance(name, one, 7)
        assert not await store.rounds.advance(name, two, 8)
        assert await store.rounds.begin(name, one, 60) == 7, "the holder can renew its lease"

    async def test_an_ended_lease_is_taken_over(self, store: Store) -> None:
        name, one, two = unique("round"), uuid4(), uuid4()
        await turn(store, NOW)
        await store.rounds.begin(name, one, 60)
        await store.rounds.advance(name, one, 7)
        await turn(store, NOW + 59_999)
        assert await store.rounds.begin(name, two, 60) is None
        await turn(store, NOW + 60_000)
        assert await store.rounds.begin(name, two, 60) == 7
        assert not await store.rounds.advance(name, one, 9)

    async def test_a_released_round_is_free(self, store: Store) -> None:
        name, one, two = unique("round"), uuid4(), uuid4()
        await store.rounds.begin(name, one, 60)
        await store.rounds.release(name, two)
        assert await store.rounds.begin(name, two, 60) is None
        await store.rounds.release(name, one)
        assert await store.rounds.begin(name, two, 60) == 0

    async def test_rounds_are_apart(self, store: Store) -> None:
        assert await store.rounds.begin(unique("round"), uuid4(), 60) == 0
        assert await store.rounds.begin(unique("round"), uuid4(), 60) == 0


class TestStates:
    async def test_states_agree_with_the_tally(self, store: Store, tenant: str) -> None:
        dice = random.Random(5)
        for _ in range(120):
            sent = notification(tenant, at=NOW)
            facts = [accepted(sent)]
            for channel in dice.sample(list(Channel), dice.randrange(4)):
                if dice.random() < 0.7:
                    facts.append(planned(sent, channel))
                facts += [
                    fact(sent, dice.choice(list(State)), channel, attempt=dice.randrange(1, 3), step=dice.randrange(2))
                    for _ in range(dice.randrange(3))
                ]
            await store.history.append(facts)
        await store.history.append([accepted(notification(tenant, at=NOW + MINUTE_MS))])
        counted: Counter[State] = Counter()
        for one in await store.history.states(THIS, THIS + 1, tenant, in_flight=True):
            assert (one.minute, one.tenant) == (THIS, tenant)
            assert len(one.ids) == (one.count if one.state in IN_FLIGHT else 0)
            counted[one.state] += one.count
        tally: Counter[State] = Counter()
        for line in await store.history.tally(tenant, THIS * MINUTE_MS, (THIS + 1) * MINUTE_MS):
            if line.channel is None:
                tally[line.state] += line.count
        assert counted == tally
        assert counted.total() == 120

    async def test_without_a_tenant_all_tenants_are_counted(self, store: Store, tenant: str) -> None:
        other = unique("other")
        await store.history.append([accepted(notification(tenant)), accepted(notification(other))])
        owners = {one.tenant: one.count for one in await store.history.states(THIS, THIS + 1)}
        assert owners == {tenant: 1, other: 1}
        assert [one.ids for one in await store.history.states(THIS, THIS + 1)] == [(), ()]

    @pytest.mark.parametrize("later", [1, 2])
    async def test_minutes_are_apart(self, store: Store, tenant: str, later: int) -> None:
        await store.history.append([accepted(notification(tenant, at=(THIS + n) * MINUTE_MS)) for n in (0, later)])
        found = await store.history.states(THIS, THIS + later, tenant)
        assert [(one.minute, one.count) for one in found] == [(THIS, 1)]
        assert len(await store.history.states(THIS, THIS + later + 1, tenant)) == 2


class TestRecordsAndWaits:
    async def test_records_are_read_by_id_alone(self, store: Store, tenant: str) -> None:
        known, unknown = notification(tenant), notification(tenant)
        await store.history.append([accepted(known), planned(known, Channel.SMS), fact(known, State.SENT)])
        (record,) = await store.history.get_many([known.id, unknown.id])
        assert record == await store.history.get(tenant, known.id)
        assert list(await store.history.get_many([])) == []

    async def test_waiting_rows_of_a_notification_are_found_until_settled(self, store: Store, tenant: str) -> None:
        held, other = notification(tenant), notification(tenant)
        wait = Wait(NOW + 5000, "deliveries.sms.normal", "acme/ann", b"body")
        await store.history.append(
            [accepted(held), accepted(other), fact(held, State.DEFERRED, wait=wait), fact(other, State.SENT)]
        )
        (row,) = await store.schedule.waiting([held.id, other.id])
        assert (row.notification, row.due) == (held.id, NOW + 5000)
        assert (row.item.topic, row.item.key, row.item.body) == ("deliveries.sms.normal", "acme/ann", b"body")
        (due,) = await store.schedule.due(NOW + 5000, 10, 30)
        assert not due.repeated
        assert len(await store.schedule.waiting([held.id])) == 1, "a row that was handed out is still there"
        await store.schedule.settle([due.id])
        assert list(await store.schedule.waiting([held.id])) == []
        assert list(await store.schedule.waiting([])) == []

    async def test_a_possible_second_copy_is_handed_out_marked(self, store: Store, tenant: str) -> None:
        sent = notification(tenant)
        waits = [Wait(NOW, "deliveries.sms.normal", "k", b"%d" % n, repeated=bool(n)) for n in range(2)]
        await store.history.append(
            [
                accepted(sent),
                *(fact(sent, State.DEFERRED, step=n, wait=wait, reason=Reason.SWEPT) for n, wait in enumerate(waits)),
            ]
        )
        due = await store.schedule.due(NOW, 10, 30)
        assert sorted((row.item.body, row.repeated) for row in due) == [(b"0", False), (b"1", True)]


async def test_old_inbox_items_are_removed(store: Store, tenant: str) -> None:
    from_then, from_now = notification(tenant, at=NOW - 5000), notification(tenant, at=NOW)
    items = [
        InboxItem(delivery(of, Channel.INAPP), "ann", "t", "b", created_at=of.accepted_at)
        for of in (from_then, from_now)
    ]
    await store.inbox.add(tenant, items)
    assert await store.inbox.remove(tenant, "bob", NOW) == 0
    assert await store.inbox.remove(tenant, "ann", NOW) == 1
    left = await store.inbox.list(tenant, "ann", None, 10, archived=True, unread_only=False)
    assert [item.id for item in left] == [items[1].id]
