"""The audit and the sweeper over the memory adapters: lost items come back once; items that wait are left alone."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
import structlog.testing

from support.flow import MAIL, TENANT, Flow, takes_it
from support.queues import depth
from tidings.model import topics
from tidings.model.accounting import MINUTE_MS
from tidings.model.history import NotificationRecord
from tidings.model.notification import Content, EmailContent, SmsContent
from tidings.model.sending import Rejected, Retry
from tidings.model.user import Preferences, QuietHours
from tidings.model.vocabulary import Channel, Priority, State
from tidings.pipeline.rounds.audit import Audit
from tidings.pipeline.rounds.sweep import Sweeper
from tidings.ports.queue import Item
from tidings.report.accounting import Accounting
from tidings.roles.worker import audit

REQUESTS = topics.requests(Priority.NORMAL)
MAILS = topics.deliveries(Channel.EMAIL, Priority.NORMAL)
LONG = 150
"""Seconds after which a minute is over and a delivery in flight counts as stuck."""


@pytest.fixture
def auditor(flow: Flow) -> Audit:
    return audit(flow.parts(), flow.clock)


def drop(flow: Flow, topic: str) -> int:
    """Empty a queue, as only a person could."""
    lane = flow.broker.lane(topic, topics.reader_of(topic))
    lost = len(lane.waiting)
    lane.clear()
    return lost


def metric(flow: Flow, name: str, **labels: str) -> float:
    value = flow.metrics.value(name, labels)
    return 0.0 if value is None else value


async def in_its_queue(flow: Flow, **body: Any) -> UUID:
    """A notification whose delivery is in its queue, and recorded as pending."""
    await flow.user()
    id: UUID = await flow.accept(to={"user_id": "ada"}, content=MAIL, **body)
    await flow.settle(topics.ROUTE)
    await flow.settle(topics.RECORD)
    return id


async def check(flow: Flow, auditor: Audit, seconds: float = LONG) -> None:
    """Let time pass while no stage works, then make a round of the audit."""
    await flow.clock.advance(seconds)
    await flow.accepted.write()
    assert await auditor.once()


class TestAccounts:
    async def test_what_arrived_balances(self, flow: Flow, auditor: Audit) -> None:
        await flow.user()
        for _ in range(3):
            await flow.accept(to={"user_id": "ada"}, content=MAIL)
        await flow.accept(to={"user_id": "nobody"}, content=MAIL)
        await flow.settle()
        await check(flow, auditor)
        assert metric(flow, "tidings_accounting_notifications_total", tenant=TENANT, state="sent") == 3
        assert metric(flow, "tidings_accounting_notifications_total", tenant=TENANT, state="suppressed") == 1
        assert metric(flow, "tidings_accounting_accepted_total", tenant=TENANT) == 4
        assert metric(flow, "tidings_accounting_missing", tenant=TENANT) == 0
        seen = (
            await Accounting(flow.store.history, flow.store.accounts, flow.store.days, flow.clock).account(TENANT)
        ).notifications
        assert (seen.accepted, seen.counted, seen.recorded, seen.missing, seen.balanced) == (4, 4, 4, 0, True)
        await check(flow, auditor)
        assert metric(flow, "tidings_accounting_accepted_total", tenant=TENANT) == 4, "each is looked at once"

    async def test_a_lost_request_is_missing(self, flow: Flow, auditor: Audit) -> None:
        await flow.user()
        await flow.accept(to={"user_id": "ada"}, content=MAIL)
        await flow.settle()
        await flow.accept(to={"user_id": "ada"}, content=MAIL)
        assert drop(flow, REQUESTS) == 1
        await check(flow, auditor)
        assert metric(flow, "tidings_accounting_missing", tenant=TENANT) == 1
        report = await Accounting(flow.store.history, flow.store.accounts, flow.store.days, flow.clock).account(TENANT)
        seen = report.notifications
        assert (seen.accepted, seen.recorded, seen.missing, seen.balanced) == (2, 1, 1, False)
        assert seen.in_flight.total == 0

    async def test_a_request_that_only_waits_is_queued_not_missing(self, flow: Flow, auditor: Audit) -> None:
        await flow.user()
        id = await flow.accept(to={"user_id": "ada"}, content=MAIL)
        for _ in range(3):
            await check(flow, auditor)
            assert metric(flow, "tidings_accounting_missing", tenant=TENANT) == 0
        seen = (
            await Accounting(flow.store.history, flow.store.accounts, flow.store.days, flow.clock).account(TENANT)
        ).notifications
        assert (seen.accepted, seen.in_flight.queued, seen.missing, seen.balanced) == (1, 1, 0, True)
        await flow.settle()
        await check(flow, auditor)
        assert list(await flow.store.accounts.gaps()) == []
        assert (await flow.view(id)).state is State.SENT

    async def test_what_was_missing_and_comes_after_all_is_not_missing_any_more(
        self, flow: Flow, auditor: Audit
    ) -> None:
        await flow.user()
        await flow.accept(to={"user_id": "ada"}, content=MAIL)
        [item] = flow.broker.lane(REQUESTS, topics.ROUTE).waiting
        drop(flow, REQUESTS)
        await check(flow, auditor)
        assert metric(flow, "tidings_accounting_missing", tenant=TENANT) == 1
        await flow.queue.put([Item(REQUESTS, item.key, item.body)])
        await flow.settle()
        await check(flow, auditor)
        assert metric(flow, "tidings_accounting_missing", tenant=TENANT) == 0

    async def test_a_key_that_is_used_again_counts_once(self, flow: Flow) -> None:
        await flow.user()
        body: dict[str, Any] = {"to": {"user_id": "ada"}, "content": MAIL}
        assert await flow.accept("order-7", **body) == await flow.accept("order-7", **body)
        await flow.accepted.write()
        minute = flow.clock.now() // MINUTE_MS
        assert [one.count for one in await flow.store.accounts.accepted(minute, minute + 1)] == [1]

    async def test_a_counter_makes_place_and_loses_nothing(self, flow: Flow) -> None:
        await flow.user()
        first = flow.clock.now() // MINUTE_MS
        for _ in range(4):
            await flow.accept(to={"user_id": "ada"}, content=MAIL)
            await flow.accepted.write()
            await flow.clock.advance(1800)
        found = await flow.store.accounts.accepted(first, first + 200)
        assert sum(one.count for one in found) == 4


class TestSweeper:
    async def test_a_lost_delivery_is_sent_once(self, flow: Flow, auditor: Audit) -> None:
        id = await in_its_queue(flow)
        assert drop(flow, MAILS) == 1
        await check(flow, auditor)
        assert metric(flow, "tidings_swept_total", result="requeued") == 1
        for _ in range(3):
            await flow.settle()
            await check(flow, auditor)
        assert len(flow.provider(Channel.EMAIL).sent) == 1
        seen = await flow.view(id)
        assert seen.state is State.SENT
        assert [entry.reason for entry in seen.timeline if entry.state is State.DEFERRED] == ["swept"]
        assert metric(flow, "tidings_swept_total", result="requeued") == 1
        assert list(await flow.store.watched.due(flow.clock.now() + 10**9, 10)) == [], "what rests is not watched"

    @pytest.mark.parametrize("local", [True, False])
    async def test_what_is_lost_after_it_waited_for_its_time_is_sent_once(
        self, flow: Flow, auditor: Audit, local: bool
    ) -> None:
        await flow.user(timezone="Europe/Berlin")
        due = flow.clock.now() // 1000 * 1000 + 5_000
        berlin, utc = (datetime.fromtimestamp(due / 1000, ZoneInfo(zone)) for zone in ("Europe/Berlin", "UTC"))
        when = {"send_at_local": f"{berlin:%Y-%m-%dT%H:%M:%S}"} if local else {"send_at": utc.isoformat()}
        id = await flow.accept(to={"user_id": "ada"}, content=MAIL, **when)
        await flow.settle()
        await flow.clock.advance(6)
        (row,) = await flow.store.schedule.due(flow.clock.now(), 10, 30.0)
        await flow.store.schedule.settle([row.id])  # and the queue lost it
        for _ in range(4):
            await check(flow, auditor)
            await flow.settle()
        assert len(flow.provider(Channel.EMAIL).sent) == 1
        seen = await flow.view(id)
        assert seen.state is State.SENT
        assert [entry.reason for entry in seen.timeline if entry.state is State.DEFERRED] == ["send_at", "swept"]

    async def test_what_waits_in_its_queue_is_backlog(self, flow: Flow, auditor: Audit) -> None:
        id = await in_its_queue(flow)
        for _ in range(5):
            await check(flow, auditor)
            assert metric(flow, "tidings_stuck", kind="backlog") == 1
        assert metric(flow, "tidings_swept_total", result="requeued") == 0
        await flow.settle()
        for _ in range(5):
            await check(flow, auditor)
            await flow.settle()
        assert metric(flow, "tidings_stuck", kind="backlog") == 0
        assert len(flow.provider(Channel.EMAIL).sent) == 1
        assert (await flow.view(id)).state is State.SENT

    async def test_a_queue_that_is_never_empty_hides_nothing(self, flow: Flow, auditor: Audit) -> None:
        lost = await in_its_queue(flow)
        drop(flow, MAILS)
        for _ in range(6):
            await in_its_queue(flow)
            await check(flow, auditor)
            # The items in the queue are worked off, but new ones always follow.
            held = await flow.queue.claim(MAILS, topics.DELIVER, 100, 0.0)
            assert held is not None
            await in_its_queue(flow)
            await held.release()
            await flow.settle(topics.DELIVER)
            await in_its_queue(flow)
            await flow.settle(topics.RECORD)
        assert await depth(flow.queue, MAILS, topics.DELIVER) > 0
        await flow.settle()
        assert (await flow.view(lost)).state is State.SENT
        sent = [outbound.id for outbound in flow.provider(Channel.EMAIL).sent]
        assert len(sent) == len(set(sent))

    async def test_a_slow_worker_is_not_robbed(self, flow: Flow, auditor: Audit) -> None:
        id = await in_its_queue(flow)
        lease_s = flow.settings.deliver.lease
        claim = await flow.queue.claim(MAILS, topics.DELIVER, 10, 0.0, 3 * lease_s)
        assert claim is not None
        for _ in range(2):
            await check(flow, auditor, lease_s)
            assert metric(flow, "tidings_swept_total", result="requeued") == 0
        await claim.release()
        for _ in range(3):
            await flow.settle()
            await check(flow, auditor)
        assert len(flow.provider(Channel.EMAIL).sent) == 1
        assert (await flow.view(id)).state is State.SENT

    async def test_a_lost_retry_goes_on_where_it_was(self, flow: Flow, auditor: Audit) -> None:
        await flow.user()
        mails = flow.provider(Channel.EMAIL)
        mails.answers = lambda outbound: Retry("unavailable") if outbound.attempt == 1 else takes_it(outbound)
        id = await flow.accept(to={"user_id": "ada"}, content=MAIL)
        await flow.settle()
        await flow.store.schedule.settle([row.id for row in await flow.store.schedule.due(2**60, 10, 0.0)])
        await check(flow, auditor)
        await flow.settle()
        assert [outbound.attempt for outbound in mails.sent] == [1, 2]
        assert (await flow.view(id)).state is State.SENT

    async def test_a_lost_send_later_is_routed(self, flow: Flow, auditor: Audit) -> None:
        await flow.user()
        later = datetime.fromtimestamp(flow.clock.now() / 1000 + 60, UTC).isoformat()
        id = await flow.accept(to={"user_id": "ada"}, content=MAIL, send_at=later)
        await flow.settle()
        await flow.store.schedule.settle([row.id for row in await flow.store.schedule.due(2**60, 10, 0.0)])
        await check(flow, auditor)
        await flow.settle()
        await flow.advance(75)  # it may be a copy, so it waits until a claim over its original has ended
        assert (await flow.view(id)).state is State.SENT

    async def test_what_waits_for_its_time_is_let_be_and_found_when_it_is_lost_then(
        self, flow: Flow, auditor: Audit
    ) -> None:
        # 22:13 UTC: it waits for the end of the quiet hours, 7:00.
        await flow.user("ada", Preferences(quiet_hours=QuietHours(22 * 60, 7 * 60)), timezone="UTC")
        id = await flow.accept(to={"user_id": "ada"}, content=MAIL)
        await flow.settle()
        for _ in range(10):
            await check(flow, auditor, 1800)
        assert metric(flow, "tidings_stuck", kind="backlog") == 0
        assert metric(flow, "tidings_swept_total", result="requeued") == 0
        await flow.clock.advance(5 * 3600)
        await flow.settle("nobody")  # the schedule alone
        assert drop(flow, MAILS) == 1
        await check(flow, auditor)
        await flow.settle()
        assert (await flow.view(id)).state is State.SENT
        assert len(flow.provider(Channel.EMAIL).sent) == 1

    async def test_lost_again_and_again_it_is_a_dead_letter(self, flow: Flow, auditor: Audit) -> None:
        id = await in_its_queue(flow)
        for _ in range(5):
            drop(flow, MAILS)
            await check(flow, auditor)
            await flow.settle(topics.RECORD)
        seen = await flow.view(id)
        assert (seen.state, seen.reason) == (State.DEAD, "stuck")
        [last] = [entry for entry in seen.timeline if entry.state is State.DEAD]
        assert last.detail == f"still deferred {LONG} s after its last fact, in no queue"
        assert seen.deliveries[0].address == "ada@example.com"
        assert metric(flow, "tidings_swept_total", result="requeued") == 3
        assert metric(flow, "tidings_swept_total", result="dead") == 1
        assert flow.provider(Channel.EMAIL).sent == []

    @pytest.mark.parametrize("said", [{"content": {**MAIL, "sms": {"text": "Hello"}}}, {"template": "hello"}])
    async def test_the_other_addresses_are_kept(self, flow: Flow, auditor: Audit, said: dict[str, Any]) -> None:
        await flow.user()
        await flow.template("hello", {"en": Content(email=EmailContent("Hi", "Hello"), sms=SmsContent("Hello"))})
        id = await flow.accept(to={"user_id": "ada"}, strategy="first_reachable", **said)
        await flow.settle(topics.ROUTE)
        await flow.settle(topics.RECORD)
        drop(flow, MAILS)
        flow.provider(Channel.EMAIL).answers = lambda _: Rejected("no_such_mailbox")
        await check(flow, auditor)
        await flow.settle()
        assert (await flow.view(id)).state is State.SENT
        assert len(flow.provider(Channel.SMS).sent) == 1

    async def test_all_lost_deliveries_of_one_notification_come_back(self, flow: Flow, auditor: Audit) -> None:
        await flow.user(devices=("phone", "tablet"))
        push = {"push": {"title": "Hi", "body": "Hello"}}
        id = await flow.accept(to={"user_id": "ada"}, content=push)
        await flow.settle(topics.ROUTE)
        await flow.settle(topics.RECORD)
        assert drop(flow, topics.deliveries(Channel.PUSH, Priority.NORMAL)) == 2
        await check(flow, auditor)
        await flow.settle()
        assert {outbound.to for outbound in flow.provider(Channel.PUSH).sent} == {"phone", "tablet"}
        assert (await flow.view(id)).state is State.SENT

    async def test_one_that_cannot_be_put_back_stops_no_other(
        self, flow: Flow, auditor: Audit, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        poison, other = await in_its_queue(flow), await in_its_queue(flow)
        assert drop(flow, MAILS) == 2
        put_back = Sweeper._wait

        async def raising(sweeper: Sweeper, record: NotificationRecord, *rest: Any) -> Any:
            if record.notification.id == poison:
                raise ZeroDivisionError
            return await put_back(sweeper, record, *rest)

        monkeypatch.setattr(Sweeper, "_wait", raising)
        with structlog.testing.capture_logs() as logged:
            for _ in range(4):
                await check(flow, auditor)
                await flow.settle()
        assert (await flow.view(other)).state is State.SENT
        assert (await flow.view(poison)).state is State.PENDING
        assert any("could not be put back" in line["event"] for line in logged)
        monkeypatch.undo()
        for _ in range(8):
            await check(flow, auditor)
            await flow.settle()
        assert (await flow.view(poison)).state is State.SENT, "it is looked at again"

    async def test_items_put_aside_are_counted(self, flow: Flow, auditor: Audit) -> None:
        await flow.queue.put([Item(MAILS, "k", b"\xff not ours")])
        await flow.settle()
        await check(flow, auditor)
        assert metric(flow, "tidings_stuck", kind="aside") == 1


class TestRounds:
    async def test_one_process_at_a_time(self, flow: Flow, auditor: Audit) -> None:
        other = audit(flow.parts(), flow.clock)
        assert await auditor.once()
        assert not await other.once()
        await flow.clock.advance(3 * flow.settings.audit.interval)
        assert await other.once()
        assert not await auditor.once()

    async def test_a_sweep_that_changes_hands_is_still_one(self, flow: Flow, auditor: Audit) -> None:
        await in_its_queue(flow)
        drop(flow, MAILS)
        await check(flow, auditor)  # put, but not recorded yet
        other = audit(flow.parts(), flow.clock)
        await check(flow, other, 3 * flow.settings.audit.interval)
        await flow.settle()
        assert len(flow.provider(Channel.EMAIL).sent) == 1
