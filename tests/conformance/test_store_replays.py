"""The promises of ports/replays.py (dead letters, replays), on every adapter."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from msgspec.structs import replace

from support.stores import NOW, accepted, delivery, fact, notification, turn
from tidings.backends.postgres import letters as postgres_letters
from tidings.model.ids import new_id
from tidings.model.letters import LetterFilter, Replay, ReplayState
from tidings.model.vocabulary import Channel, Reason, State
from tidings.ports.store import Store

EVERYTHING = LetterFilter()


async def dead(
    store: Store, tenant: str, state: State = State.DEAD, channel: Channel = Channel.SMS, at: int = NOW, **fields: Any
) -> UUID:
    """Record a notification whose delivery rests in `state`. Returns the delivery's id."""
    about = {name: fields.pop(name) for name in ("user_id", "category") if name in fields}
    sent = notification(tenant, at, **about)
    await store.history.append(
        [accepted(sent), fact(sent, State.PENDING, channel), fact(sent, state, channel, **fields)]
    )
    return delivery(sent, channel)


async def found(store: Store, tenant: str, filter: LetterFilter = EVERYTHING, limit: int = 50) -> list[UUID]:
    """All pages, one after the other."""
    ids: list[UUID] = []
    before: UUID | None = None
    for _ in range(100):
        page = await store.letters.find(tenant, filter, before, limit)
        assert len(page.letters) <= limit
        ids += [letter.id for letter in page.letters]
        if page.cursor is None:
            assert await store.letters.count(tenant, filter) == len(ids)
            return ids
        before = page.cursor
    raise AssertionError("the pages do not end")


async def claim(store: Store, now: int, lease_s: float) -> Replay | None:
    """Claim a replay, for a caller with a right clock."""
    await turn(store, now)
    return await store.replays.claim(now, lease_s)


class TestFinding:
    async def test_the_dead_and_the_failed_newest_first(self, store: Store, tenant: str) -> None:
        ids = [
            await dead(store, tenant, state, at=NOW + number)
            for number, state in enumerate([State.DEAD, State.FAILED, State.DEAD])
        ]
        for state in (State.SENT, State.DELIVERED, State.SUPPRESSED, State.EXPIRED, State.CANCELLED, State.DEFERRED):
            await dead(store, tenant, state)
        await dead(store, tenant, State.UNCERTAIN)
        for limit in (1, 2, 50):
            assert await found(store, tenant, limit=limit) == sorted(ids, reverse=True)

    async def test_uncertain_deliveries_are_found_on_request(self, store: Store, tenant: str) -> None:
        await dead(store, tenant)
        doubtful = await dead(store, tenant, State.UNCERTAIN)
        assert await found(store, tenant, LetterFilter(state=State.UNCERTAIN)) == [doubtful]

    async def test_a_letter_knows_its_last_fact_and_its_notification(self, store: Store, tenant: str) -> None:
        id = await dead(store, tenant, provider="acme", reason="landline", detail="code 7", attempt=2, step=1)
        [letter] = (await store.letters.find(tenant, EVERYTHING, None, 10)).letters
        last = letter.last
        assert (letter.id, last.id, last.state, last.attempt, last.step) == (id, id, State.DEAD, 2, 1)
        assert (last.provider, last.reason, last.detail) == ("acme", "landline", "code 7")
        assert letter.record == await store.history.get(tenant, letter.record.notification.id)

    async def test_each_filter(self, store: Store, tenant: str) -> None:
        early = await dead(store, tenant, at=NOW - 5000)
        late = await dead(store, tenant, at=NOW + 5000)
        mail = await dead(store, tenant, channel=Channel.EMAIL)
        push = await dead(store, tenant, channel=Channel.PUSH)
        offer = await dead(store, tenant, category="marketing")
        other = await dead(store, tenant, user_id="bob")
        nobody = await dead(store, tenant, user_id=None)
        acme = await dead(store, tenant, provider="acme", reason="landline")
        failed = await dead(store, tenant, State.FAILED)
        cases: list[tuple[LetterFilter, set[UUID]]] = [
            (LetterFilter(channel=Channel.EMAIL), {mail}),
            (LetterFilter(channel=Channel.PUSH), {push}),
            (LetterFilter(category="marketing"), {offer}),
            (LetterFilter(user_id="bob"), {other}),
            (LetterFilter(provider="acme"), {acme}),
            (LetterFilter(reason="landline"), {acme}),
            (LetterFilter(state=State.FAILED), {failed}),
            (LetterFilter(since=NOW + 5000), {late}),
            (LetterFilter(until=NOW), {early}),
            (LetterFilter(delivery_id=nobody), {nobody}),
            (LetterFilter(delivery_id=nobody, channel=Channel.EMAIL), set()),
            (LetterFilter(provider="acme", reason="landline", channel=Channel.SMS, category="transactional"), {acme}),
            (LetterFilter(provider="acme", reason="no_route"), set()),
        ]
        for filter, expected in cases:
            assert set(await found(store, tenant, filter)) == expected, filter

    async def test_a_delivery_that_left_its_state_is_no_longer_a_letter(self, store: Store, tenant: str) -> None:
        sent = notification(tenant)
        await store.history.append([accepted(sent), fact(sent, State.DEAD, attempt=3)])
        assert await found(store, tenant) == [delivery(sent)]
        again = fact(sent, State.DEFERRED, attempt=4, reason=Reason.REPLAYED)
        await store.history.append([again])
        assert await found(store, tenant) == []
        await store.history.append([fact(sent, State.DEAD, attempt=6)])
        assert await found(store, tenant) == [delivery(sent)]
        assert (await store.letters.find(tenant, EVERYTHING, None, 10)).letters[0].last.attempt == 6
        # A late receipt proves that it arrived.
        await store.history.append([fact(sent, State.DELIVERED, attempt=1)])
        assert await found(store, tenant) == []

    async def test_two_letters_of_one_notification(self, store: Store, tenant: str) -> None:
        sent = notification(tenant)
        facts = [fact(sent, State.DEAD, channel) for channel in (Channel.SMS, Channel.EMAIL)]
        await store.history.append([accepted(sent), *facts])
        for limit in (1, 2):
            assert await found(store, tenant, limit=limit) == sorted((f.id for f in facts), reverse=True)

    async def test_another_tenant_sees_nothing(self, store: Store, tenant: str) -> None:
        await dead(store, tenant)
        assert await found(store, tenant + "-other") == []

    async def test_pages_end_though_their_work_is_bounded(
        self, store: Store, tenant: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(postgres_letters, "_STRETCH", 3)
        monkeypatch.setattr(postgres_letters, "_MOST_STRETCHES", 2)
        wanted = [await dead(store, tenant, reason="rare", at=NOW)]
        for number in range(1, 20):
            await dead(store, tenant if number % 2 else tenant + "-other", at=NOW + number)
        wanted.append(await dead(store, tenant, reason="rare", at=NOW + 100))
        ids: list[UUID] = []
        before: UUID | None = None
        for _ in range(100):
            page = await store.letters.find(tenant, LetterFilter(reason="rare"), before, 10)
            ids += [letter.id for letter in page.letters]
            before = page.cursor
            if before is None:
                break
        assert ids == sorted(wanted, reverse=True)

    async def test_a_count_that_needs_too_much_work_is_none(
        self, store: Store, tenant: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(postgres_letters, "_STRETCH", 3)
        monkeypatch.setattr(postgres_letters, "_MOST_STRETCHES", 2)
        for number in range(7):
            await dead(store, tenant, at=NOW + number)
        assert await store.letters.count(tenant, EVERYTHING) in {7, None}
        assert await store.letters.count(tenant, LetterFilter(since=NOW + 4)) == 3


class TestReplays:
    def replay(self, tenant: str, at: int = NOW, **fields: Any) -> Replay:
        """A new replay."""
        filter = LetterFilter(
            state=State.DEAD, channel=Channel.SMS, user_id="ann", since=NOW - 1, delivery_id=UUID(int=7)
        )
        return Replay(new_id(at, 0, at), tenant, filter, 50, "key-1", "tk_abcd", at, 12, **fields)

    async def test_it_is_read_back_whole(self, store: Store, tenant: str) -> None:
        asked = self.replay(tenant)
        await store.replays.add(asked)
        assert await store.replays.get(tenant, asked.id) == asked
        assert await store.replays.get(tenant + "-other", asked.id) is None

    async def test_adding_it_again_changes_nothing(self, store: Store, tenant: str) -> None:
        asked = self.replay(tenant)
        await store.replays.add(asked)
        await store.replays.add(replace(asked, per_second=7))
        assert await store.replays.get(tenant, asked.id) == asked

    async def test_they_are_listed_newest_first(self, store: Store, tenant: str) -> None:
        asked = [self.replay(tenant, NOW + number) for number in range(3)]
        for one in asked:
            await store.replays.add(one)
        await store.replays.add(self.replay(tenant + "-other"))
        assert await store.replays.list(tenant, None, 2) == [asked[2], asked[1]]
        assert await store.replays.list(tenant, asked[1].id, 2) == [asked[0]]

    async def test_one_worker_at_a_time_has_it(self, store: Store, tenant: str) -> None:
        asked = self.replay(tenant)
        await store.replays.add(asked)
        assert await claim(store, NOW - 1, 10) is None
        taken = await claim(store, NOW, 10)
        assert taken is not None
        assert (taken.id, taken.state, taken.started_at, taken.filter) == (
            asked.id, ReplayState.RUNNING, NOW, asked.filter,
        )  # fmt: skip
        assert await claim(store, NOW + 9_999, 10) is None
        later = await claim(store, NOW + 10_000, 10)
        assert later is not None
        assert later.started_at == NOW
        # The first worker comes back to find its lease gone.
        assert not await store.replays.progress(replace(taken, found=5), NOW)
        known = await store.replays.get(tenant, asked.id)
        assert known is not None
        assert known.found == 0

    async def test_progress_is_kept_and_the_next_page_waits(self, store: Store, tenant: str) -> None:
        await store.replays.add(self.replay(tenant))
        taken = await claim(store, NOW, 10)
        assert taken is not None
        further = replace(taken, found=9, replayed=7, skipped={"expired": 2}, position=UUID(int=99), next_due=NOW + 140)
        assert await store.replays.progress(further, NOW + 100)
        assert await store.replays.get(tenant, taken.id) == replace(further, token=None)
        assert await claim(store, NOW + 99, 10) is None
        again = await claim(store, NOW + 100, 10)
        assert again is not None
        assert replace(again, token=None) == replace(further, token=None)

    async def test_a_finished_replay_is_not_claimed_again(self, store: Store, tenant: str) -> None:
        await store.replays.add(self.replay(tenant))
        taken = await claim(store, NOW, 10)
        assert taken is not None
        ended = replace(taken, state=ReplayState.FINISHED, finished_at=NOW + 5)
        assert await store.replays.progress(ended, NOW)
        assert await claim(store, NOW + 100_000, 10) is None
        assert await store.replays.get(tenant, taken.id) == replace(ended, token=None)
        assert not await store.replays.cancel(tenant, taken.id, NOW)

    async def test_a_cancelled_one_stays_so(self, store: Store, tenant: str) -> None:
        await store.replays.add(self.replay(tenant))
        taken = await claim(store, NOW, 10)
        assert taken is not None
        assert not await store.replays.cancel(tenant + "-other", taken.id, NOW)
        assert await store.replays.cancel(tenant, taken.id, NOW + 1)
        assert await store.replays.progress(
            replace(taken, state=ReplayState.FINISHED, finished_at=NOW + 2, found=3, replayed=3), NOW
        )
        known = await store.replays.get(tenant, taken.id)
        assert known is not None
        assert (known.state, known.finished_at, known.replayed) == (ReplayState.CANCELLED, NOW + 1, 3)
        assert await claim(store, NOW + 100_000, 10) is None

    async def test_the_one_that_waits_longest_is_first(self, store: Store, tenant: str) -> None:
        for at in (NOW + 2, NOW, NOW + 1):
            await store.replays.add(self.replay(tenant, at))
        order = [await claim(store, NOW + 10, 10) for _ in range(3)]
        assert [one.created_at for one in order if one is not None] == [NOW, NOW + 1, NOW + 2]
