"""The promises of ports/store.py about the facts of the history, on every adapter."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from support import unique
from support.stores import NOW, accepted, delivery, fact, find_all, notification
from tidings.model.history import HistoryFilter, NotificationRecord
from tidings.model.ids import delivery_id, instant_of
from tidings.model.notification import Content, EmailContent, TemplateRef
from tidings.model.sending import Handed
from tidings.model.user import Address
from tidings.model.vocabulary import Channel, Priority, Reason, State, Strategy
from tidings.policy.transitions import RESTING, came_back, rank
from tidings.ports.store import Store


def states(record: NotificationRecord) -> list[tuple[State, int]]:
    return sorted((event.state, event.attempt) for event in record.events)


class TestAppendAndGet:
    async def test_a_notification_is_read_back_whole(self, store: Store, tenant: str) -> None:
        sent = notification(
            tenant,
            content=None,
            template=TemplateRef("order_confirmed", 3),
            data=b'{"total":"12.50 \xe2\x82\xac"}',
            channels=(Channel.SMS, Channel.EMAIL),
            strategy=Strategy.FIRST_REACHABLE,
            category="orders",
            priority=Priority.CRITICAL,
            send_at=NOW + 60_000,
            expires_at=NOW + 120_000,
            metadata=b'{"order":"7\\u0000"}',
        )
        await store.history.append([accepted(sent)])
        record = await store.history.get(tenant, sent.id)
        assert record is not None
        assert record.notification == sent
        assert [(event.id, event.state, event.at) for event in record.events] == [(sent.id, State.PENDING, NOW)]

    async def test_an_event_is_read_back_whole(self, store: Store, tenant: str) -> None:
        sent = notification(tenant)
        failed = fact(
            sent, State.FAILED, attempt=2, step=1, reason="landline", provider="acme", reference="r-1", detail="code 7"
        )
        await store.history.append([accepted(sent), failed])
        record = await store.history.get(tenant, sent.id)
        assert record is not None
        event = record.events[-1]
        assert (event.id, event.at, event.state, event.attempt, event.step) == (
            failed.id, failed.at, State.FAILED, 2, 1,
        )  # fmt: skip
        assert (event.reason, event.provider, event.reference, event.detail, event.address) == (
            "landline", "acme", "r-1", "code 7", "+4930123456",
        )  # fmt: skip

    async def test_the_same_fact_again_changes_nothing(self, store: Store, tenant: str) -> None:
        sent = notification(tenant)
        facts = [accepted(sent), fact(sent, State.SENDING), fact(sent, State.SENT)]
        await store.history.append([*facts, *facts])
        await store.history.append(facts)
        record = await store.history.get(tenant, sent.id)
        assert record is not None
        assert states(record) == [(State.PENDING, 0), (State.SENDING, 1), (State.SENT, 1)]

    async def test_the_new_part_of_a_partly_known_batch_is_recorded(self, store: Store, tenant: str) -> None:
        known, new = notification(tenant), notification(tenant)
        await store.history.append([accepted(known), fact(known, State.SENDING)])
        await store.history.append(
            [accepted(known), fact(known, State.SENDING), fact(known, State.SENT), accepted(new), fact(new, State.SENT)]
        )
        for sent, expected in (
            (known, [(State.PENDING, 0), (State.SENDING, 1), (State.SENT, 1)]),
            (new, [(State.PENDING, 0), (State.SENT, 1)]),
        ):
            record = await store.history.get(tenant, sent.id)
            assert record is not None
            assert states(record) == expected

    async def test_facts_differ_by_attempt_state_and_step(self, store: Store, tenant: str) -> None:
        sent = notification(tenant)
        facts = [
            fact(sent, state, attempt=attempt, step=step)
            for state in (State.DEFERRED, State.SENT)
            for attempt in (1, 2)
            for step in (0, 1)
        ]
        await store.history.append([accepted(sent), *facts])
        record = await store.history.get(tenant, sent.id)
        assert record is not None
        assert len(record.events) == 1 + len(facts)

    async def test_events_come_oldest_first(self, store: Store, tenant: str) -> None:
        sent = notification(tenant)
        moments = [fact(sent, State.DEFERRED, step=step, at=NOW + at) for step, at in enumerate([500, 100, 900, 300])]
        await store.history.append([*moments, accepted(sent)])
        record = await store.history.get(tenant, sent.id)
        assert record is not None
        assert [event.at - NOW for event in record.events] == [0, 100, 300, 500, 900]

    async def test_facts_recorded_before_their_notification_are_kept(self, store: Store, tenant: str) -> None:
        sent = notification(tenant)
        await store.history.append([fact(sent, State.DELIVERED)])
        assert await store.history.get(tenant, sent.id) is None
        await store.history.append([accepted(sent)])
        record = await store.history.get(tenant, sent.id)
        assert record is not None
        assert states(record) == [(State.DELIVERED, 1), (State.PENDING, 0)]

    async def test_texts_of_any_kind_are_kept(self, store: Store, tenant: str) -> None:
        sent = notification(tenant, content=Content(email=EmailContent("Größe \U0001f4e6 مرحبا", text="a\tb\r\nc")))
        failed = fact(sent, State.FAILED, reason="'; drop table event; --", detail="\\x00 \\u0000 % {} é" * 50)
        await store.history.append([accepted(sent), failed])
        record = await store.history.get(tenant, sent.id)
        assert record is not None
        assert record.notification.content == sent.content
        assert (record.events[-1].reason, record.events[-1].detail) == (failed.reason, failed.detail)

    async def test_many_at_once(self, store: Store, tenant: str) -> None:
        many = [notification(tenant, at=NOW + index) for index in range(700)]
        await store.history.append([outcome for sent in many for outcome in (accepted(sent), fact(sent, State.SENT))])
        assert [record.notification.id for record in await find_all(store, tenant, HistoryFilter(), 200)] == [
            sent.id for sent in reversed(many)
        ]

    async def test_concurrent_writers_of_the_same_facts(self, store: Store, tenant: str) -> None:
        many = [notification(tenant, at=NOW + index) for index in range(50)]
        facts = [outcome for sent in many for outcome in (accepted(sent), fact(sent, State.SENT, suppress=True))]
        await asyncio.gather(*(store.history.append(facts[start:] + facts[:start]) for start in range(0, 100, 20)))
        for sent in many:
            record = await store.history.get(tenant, sent.id)
            assert record is not None
            assert states(record) == [(State.PENDING, 0), (State.SENT, 1)]

    async def test_appending_nothing(self, store: Store, tenant: str) -> None:
        await store.history.append([])
        assert await find_all(store, tenant, HistoryFilter(), 10) == []

    async def test_unknown_and_foreign_ids_are_none(self, store: Store, tenant: str) -> None:
        sent = notification(tenant)
        assert await store.history.get(tenant, sent.id) is None
        await store.history.append([accepted(sent)])
        assert await store.history.get(unique("other"), sent.id) is None

    @settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        plan=st.lists(
            st.tuples(
                st.sampled_from([Channel.SMS, Channel.EMAIL]),
                st.sampled_from(list(State)),
                st.integers(0, 3),
                st.integers(0, 1),
            ),
            min_size=1,
            max_size=12,
            unique=True,
        ),
        data=st.data(),
    )
    async def test_the_order_of_arrival_does_not_matter(
        self,
        store: Store,
        plan: list[tuple[Channel, State, int, int]],
        data: st.DataObject,
    ) -> None:
        tallies: list[Counter[tuple[str | None, State]]] = []
        for shuffled in (plan, data.draw(st.permutations(plan))):
            tenant = unique("order")
            sent = notification(tenant)
            facts = [
                accepted(sent),
                *(fact(sent, state, channel, attempt=attempt, step=step) for channel, state, attempt, step in shuffled),
            ]
            if data.draw(st.booleans()):
                facts.reverse()
            cut = data.draw(st.integers(0, len(facts)))
            await store.history.append(facts[:cut])
            await store.history.append(facts[cut // 2 :])
            tallies.append(Counter())
            for tally in await store.history.tally(tenant):
                tallies[-1][tally.channel, tally.state] += tally.count
            best: dict[Channel, tuple[int, State]] = {}
            for channel, state, attempt, _ in plan:
                best[channel] = max(best.get(channel, (-1, state)), (rank(state, attempt), state))
            for channel, (_, state) in best.items():
                assert tallies[-1][channel.value, state] == 1
        assert tallies[0] == tallies[1]


class TestAttempted:
    @pytest.mark.parametrize("state", sorted(RESTING))
    async def test_an_attempt_that_is_over_is_known(self, store: Store, tenant: str, state: State) -> None:
        sent = notification(tenant)
        await store.history.append([accepted(sent), fact(sent, state, attempt=2)])
        id = delivery(sent)
        assert await store.history.attempted([(id, 1), (id, 2), (id, 3)]) == {(id, 2)}

    @pytest.mark.parametrize("state", [State.PENDING, State.SENDING])
    async def test_an_attempt_that_is_under_way_is_not_over(self, store: Store, tenant: str, state: State) -> None:
        sent = notification(tenant)
        await store.history.append([accepted(sent), fact(sent, state, attempt=2)])
        assert await store.history.attempted([(delivery(sent), 2)]) == set()

    async def test_a_retry_is_a_result_and_quiet_hours_are_not(self, store: Store, tenant: str) -> None:
        sent = notification(tenant)
        await store.history.append(
            [
                accepted(sent),
                fact(sent, State.DEFERRED, attempt=1, reason=Reason.QUIET_HOURS),
                fact(sent, State.DEFERRED, attempt=2, reason=Reason.RETRY),
            ]
        )
        id = delivery(sent)
        assert await store.history.attempted([(id, 1), (id, 2)]) == {(id, 2)}

    async def test_attempts_of_different_deliveries_are_distinguished(self, store: Store, tenant: str) -> None:
        sent = notification(tenant)
        await store.history.append([accepted(sent), fact(sent, State.SENT)])
        asked = [(delivery_id(sent.id, slot), 1) for slot in range(1, 20)]
        assert await store.history.attempted(asked) == {(delivery(sent), 1)}
        assert await store.history.attempted([]) == set()

    async def test_a_wait_is_known_by_the_step_at_which_the_attempt_goes_on(self, store: Store, tenant: str) -> None:
        sent, other = notification(tenant), notification(tenant)
        id = delivery(sent)
        await store.history.append(
            [
                accepted(sent),
                accepted(other),
                fact(sent, State.PENDING),
                fact(sent, State.DEFERRED, attempt=1, step=3, reason=Reason.QUIET_HOURS),
                fact(sent, State.DEFERRED, attempt=1, step=1, reason=Reason.SWEPT),
                fact(sent, State.UNCERTAIN, attempt=1, step=9, reason=Reason.MAY_HAVE_BEEN_SENT),
                fact(sent, State.PENDING, attempt=2, step=6, reason=Reason.MAY_HAVE_BEEN_SENT),
                fact(sent, State.DEFERRED, attempt=3, step=7, reason=Reason.RETRY),
                fact(sent, State.DEFERRED, attempt=4, step=8, reason=Reason.FALLBACK),
                fact(other, State.PENDING, attempt=1, step=5, reason=Reason.FALLBACK),
            ]
        )
        asked = [(id, attempt) for attempt in (1, 2, 3, 4, 5)]
        assert await store.history.waited([*asked, (delivery(other), 1)]) == {(id, 1): 4, (id, 2): 6}
        assert await store.history.waited([(id, 2)]) == {(id, 2): 6}
        assert await store.history.waited([]) == {}

    async def test_an_arrived_delivery_is_known_in_any_attempt(self, store: Store, tenant: str) -> None:
        there, bounced, under_way = notification(tenant), notification(tenant), notification(tenant)
        facts = [fact(there, State.DELIVERED, attempt=1), fact(there, State.DEFERRED, attempt=2, reason=Reason.RETRY)]
        facts += [fact(bounced, State.SENT, attempt=1), fact(bounced, State.FAILED, attempt=1)]
        await store.history.append([accepted(there), accepted(bounced), accepted(under_way), *facts])
        asked = [delivery(sent) for sent in (there, bounced, under_way)]
        assert await store.history.arrived(asked) == {delivery(there)}
        assert await store.history.arrived([]) == set()

    async def test_a_bounced_delivery_has_not_arrived_and_counts_as_failed(self, store: Store, tenant: str) -> None:
        back, again = notification(tenant), notification(tenant)
        facts = [
            outcome
            for bounced in (back, again)
            for outcome in (
                fact(bounced, State.FAILED, attempt=came_back(1), reason="bounced"),
                fact(bounced, State.SENT, attempt=1),
                fact(bounced, State.DELIVERED, attempt=1),
            )
        ]
        for outcome in [accepted(back), accepted(again), *facts]:
            await store.history.append([outcome])
        assert await store.history.arrived([delivery(back), delivery(again)]) == set()
        assert {tally.state for tally in await store.history.tally(tenant)} == {State.FAILED}
        failed = await find_all(store, tenant, HistoryFilter(state=State.FAILED), 10)
        assert {record.notification.id for record in failed} == {back.id, again.id}
        assert await find_all(store, tenant, HistoryFilter(state=State.DELIVERED), 10) == []
        replayed = [
            fact(again, State.DEFERRED, attempt=came_back(1) + 1, reason=Reason.REPLAYED),
            fact(again, State.SENT, attempt=came_back(1) + 1),
        ]
        await store.history.append(replayed)
        assert await store.history.arrived([delivery(again)]) == set()
        sent = await find_all(store, tenant, HistoryFilter(state=State.SENT), 10)
        assert [record.notification.id for record in sent] == [again.id]
        await store.history.append([fact(again, State.DELIVERED, attempt=came_back(1) + 1)])
        assert await store.history.arrived([delivery(back), delivery(again)]) == {delivery(again)}

    async def test_handed_attempts_are_found_by_reference_and_address(self, store: Store, tenant: str) -> None:
        provider, address = unique("acme"), f"{unique('Ada')}@example.com"
        first, other, elsewhere = notification(tenant), notification(tenant), notification(tenant)
        to = Address(Channel.EMAIL, address)
        facts = [
            replace(fact(first, State.SENT, reference="r-1", provider=provider), address=to),
            replace(fact(first, State.DEFERRED, attempt=2, reference="r-1", provider=provider), address=to),
            replace(fact(other, State.UNCERTAIN, provider=provider), address=to),
            replace(fact(elsewhere, State.SENT, reference="r-1", provider="another"), address=to),
        ]
        await store.history.append([accepted(first), accepted(other), accepted(elsewhere), *facts])
        at = instant_of(first.id)
        around = (at - 60_000, at + 60_000)
        by_reference = await store.history.handed(provider, {"r-1"}, set(), *around)
        assert list(by_reference) == [Handed(delivery(first), tenant, 1, "r-1", address)]
        by_address = await store.history.handed(provider, set(), {address.lower()}, *around)
        assert {(handed.delivery_id, handed.reference) for handed in by_address} == {
            (delivery(first), "r-1"),
            (delivery(other), ""),
        }
        assert list(await store.history.handed(provider, {""}, set(), *around)) == []
        assert list(await store.history.handed(provider, {"r-1"}, set(), at + 1, at + 60_000)) == []
