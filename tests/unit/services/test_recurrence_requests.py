"""What a recurrence is made of, and what a change leaves as it was."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from support.flow import TENANT, Flow
from tidings.model.errors import Conflict, Invalid, NotFound
from tidings.model.ids import bucket_of, new_id, stable_bucket, to_text
from tidings.model.recurrence import GRACE_S, OF_THE_USER, RECURRENCE_PREFIX, Progress, Recurrence
from tidings.pipeline.compose.composer import Composer
from tidings.pipeline.compose.recipients import Recipients
from tidings.pipeline.compose.requests import FARTHEST_MS
from tidings.services.recurrences import LARGEST_BYTES, MOST_GRACE_S, TRIES, Recurrences

REQUEST: dict[str, Any] = {"to": {"user_id": "ada"}, "content": {"sms": {"text": "Hello"}}}
BODY: dict[str, Any] = {"rrule": "FREQ=DAILY", "start": "2023-11-20T09:00", "request": REQUEST}
"""The clock stands at 2023-11-14 22:13:20 in UTC."""


@pytest.fixture
async def desk(flow: Flow) -> Recurrences:
    await flow.user(timezone="Asia/Tokyo")
    bits = random.Random(7).getrandbits
    composer = Composer(flow.renderer, bits, recipients=Recipients(flow.store.users, flow.clock))
    return Recurrences(flow.store.recurrences, flow.store.users, composer, flow.clock, bits)


async def create(desk: Recurrences, **more: Any) -> Recurrence:
    return await desk.create(TENANT, json.dumps(BODY | more).encode())


async def change(desk: Recurrences, made: Recurrence, **body: Any) -> Recurrence:
    return await desk.change(TENANT, made.id, json.dumps(body).encode())


async def coming(desk: Recurrences, made: Recurrence, count: int = 3) -> list[str]:
    return [one.local.isoformat() for one in await desk.upcoming(made, count)]


async def test_fields_that_are_left_out_or_null_have_their_defaults(flow: Flow, desk: Recurrences) -> None:
    nulls = {"timezone": None, "name": None, "grace_seconds": None, "exdates": None}
    now, person = flow.clock.now(), (await flow.store.users.known(TENANT, ["ada"]))["ada"]
    for more in ({}, nulls):
        made = await create(desk, **more)
        assert (made.tenant, made.name, made.timezone, made.grace) == (TENANT, "", OF_THE_USER, GRACE_S)
        assert (made.rrule, made.start, json.loads(made.request)) == ("FREQ=DAILY", "2023-11-20T09:00:00", REQUEST)
        assert (made.created_at, made.updated_at, made.incarnation) == (now, now, person)
        assert (made.revision, made.paused) == (1, False)
        assert bucket_of(made.id) == stable_bucket(TENANT, "ada")
        assert await desk.get(TENANT, made.id) == made


async def test_fields_are_kept_in_full_and_as_the_timezone_database_spells_them(desk: Recurrences) -> None:
    made = await create(desk, timezone="europe/berlin", name="n", grace_seconds=2.0, exdates=["2023-11-21"])
    assert (made.timezone, made.name, made.grace) == ("Europe/Berlin", "n", 2)
    assert type(made.grace) is int
    assert await coming(desk, made) == ["2023-11-20T09:00:00", "2023-11-22T09:00:00", "2023-11-23T09:00:00"]


@pytest.mark.parametrize("grace", [0, 1, MOST_GRACE_S])
async def test_the_grace_is_up_to_a_week(desk: Recurrences, grace: int) -> None:
    made = await create(desk, grace_seconds=grace)
    assert made.grace == grace
    assert (await change(desk, made, grace_seconds=7)).grace == 7
    for wrong in (MOST_GRACE_S + 1, -1, 1.5):
        with pytest.raises(Invalid) as refused:
            await change(desk, made, grace_seconds=wrong)
        assert (refused.value.code, refused.value.path) == ("wrong_type", "$.grace_seconds")


@pytest.mark.parametrize(
    ("to", "timezone", "due"),
    [
        (REQUEST["to"], "user", "2023-11-20T00:00:00+00:00"),
        (REQUEST["to"], "Europe/Berlin", "2023-11-20T08:00:00+00:00"),
        ({"phone": "+4915123456789", "timezone": "America/New_York"}, "user", "2023-11-20T14:00:00+00:00"),
        ({"phone": "+4915123456789"}, "user", "2023-11-20T09:00:00+00:00"),
    ],
)
async def test_the_first_occurrence_is_due_by_its_own_or_the_recipients_timezone(
    desk: Recurrences, to: dict[str, Any], timezone: str, due: str
) -> None:
    made = await create(desk, request=REQUEST | {"to": to}, timezone=timezone)
    assert made.progress.due is not None
    assert made.progress.local == "2023-11-20T09:00:00"
    [first, _] = await desk.upcoming(made, 2)
    assert (first.due, first.local.isoformat()) == (made.progress.due, made.progress.local)
    assert made.progress.due == round(datetime.fromisoformat(due).timestamp() * 1000)


async def test_a_recurrence_may_start_up_to_a_year_ahead(flow: Flow, desk: Recurrences) -> None:
    await flow.clock.advance(1 - flow.clock.now() % 1000 / 1000)
    latest = _local(flow.clock.now() + FARTHEST_MS)
    assert (await create(desk, start=latest)).start == latest
    with pytest.raises(Invalid) as refused:
        await create(desk, start=_local(flow.clock.now() + FARTHEST_MS + 1000))
    assert (refused.value.code, refused.value.path) == ("too_far", "$.start")


async def test_a_recurrence_has_a_largest_size(desk: Recurrences) -> None:
    body = json.dumps(BODY).encode()
    made = await desk.create(TENANT, body.ljust(LARGEST_BYTES))
    for asked in (
        desk.create(TENANT, body.ljust(LARGEST_BYTES + 1)),
        desk.change(TENANT, made.id, b'{"name": "n"}'.ljust(LARGEST_BYTES + 1)),
    ):
        with pytest.raises(Invalid) as refused:
            await asked
        assert refused.value.code == "too_large"


async def test_an_unknown_user_is_refused_with_the_path_in_the_request(desk: Recurrences) -> None:
    for to, expected in (({"user_id": "eve"}, "unknown_user"), ({"user_id": ""}, "invalid_name")):
        with pytest.raises(Invalid) as refused:
            await create(desk, request=REQUEST | {"to": to})
        assert (refused.value.code, refused.value.path) == (expected, "$.request.to.user_id")


class TestDatesToLeaveOut:
    async def test_are_given_in_the_rule_or_beside_it_and_not_both(self, desk: Recurrences) -> None:
        beside = await create(desk, exdates=["2023-11-21T09:00"])
        inside = await create(desk, rrule="RRULE:FREQ=DAILY\nEXDATE:20231121T090000")
        for made in (beside, inside):
            assert await coming(desk, made, 2) == ["2023-11-20T09:00:00", "2023-11-22T09:00:00"]
        with pytest.raises(Invalid) as refused:
            await create(desk, rrule="RRULE:FREQ=DAILY\nEXDATE:20231121T090000", exdates=["2023-11-22"])
        assert (refused.value.code, refused.value.path) == ("ambiguous_exdates", "$.exdates")

    async def test_stay_when_the_rule_changes_and_the_rule_stays_when_they_change(self, desk: Recurrences) -> None:
        made = await create(desk, exdates=["2023-11-22"])
        made = await change(desk, made, rrule="FREQ=DAILY;INTERVAL=2")
        assert await coming(desk, made, 2) == ["2023-11-20T09:00:00", "2023-11-24T09:00:00"]
        made = await change(desk, made, exdates=["2023-11-24"])
        assert await coming(desk, made, 3) == ["2023-11-20T09:00:00", "2023-11-22T09:00:00", "2023-11-26T09:00:00"]
        made = await change(desk, made, rrule="RRULE:FREQ=DAILY\nEXDATE:20231121T090000")
        assert await coming(desk, made, 3) == ["2023-11-20T09:00:00", "2023-11-22T09:00:00", "2023-11-23T09:00:00"]
        made = await change(desk, made, exdates=[])
        assert await coming(desk, made, 3) == ["2023-11-20T09:00:00", "2023-11-21T09:00:00", "2023-11-22T09:00:00"]
        made = await change(desk, made, rrule="FREQ=DAILY;INTERVAL=3", exdates=["2023-11-23"])
        assert await coming(desk, made, 2) == ["2023-11-20T09:00:00", "2023-11-26T09:00:00"]


class TestChanges:
    async def test_each_says_when_it_was_made_and_a_change_of_nothing_changes_nothing(
        self, flow: Flow, desk: Recurrences
    ) -> None:
        made = await create(desk, name="n")
        await flow.clock.advance(60)
        assert await change(desk, made, name="n") == made
        new = await change(desk, made, name="m", request=REQUEST | {"category": "news"})
        assert (new.name, new.revision, new.created_at) == ("m", 2, made.created_at)
        assert new.updated_at == flow.clock.now()
        assert json.loads(new.request)["category"] == "news"
        assert (new.progress, new.incarnation) == (made.progress, made.incarnation)

    @pytest.mark.parametrize(
        ("body", "local"),
        [
            ({"start": "2023-11-21T10:00"}, "2023-11-21T10:00:00"),
            ({"rrule": "FREQ=WEEKLY;BYDAY=FR"}, "2023-11-24T09:00:00"),
            ({"timezone": "Europe/Berlin"}, "2023-11-20T09:00:00"),
        ],
    )
    async def test_a_new_rule_start_or_timezone_moves_the_next_occurrence_unless_it_is_paused(
        self, desk: Recurrences, body: dict[str, Any], local: str
    ) -> None:
        made, paused = await create(desk), await create(desk)
        new = await change(desk, made, **body)
        assert new.progress.local == local
        assert new.progress.due != made.progress.due
        await desk.pause(TENANT, paused.id)
        new = await change(desk, paused, **body)
        assert (new.paused, new.progress.local, new.progress.due) == (True, None, None)
        new = await desk.resume(TENANT, paused.id)
        assert (new.paused, new.progress.local) == (False, local)

    async def test_the_store_is_told_from_where_an_occurrence_moved(
        self, flow: Flow, desk: Recurrences, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        moves: list[Progress | None] = []
        replace = flow.store.recurrences.replace

        async def noted(new: Recurrence, moved_from: Progress | None = None) -> bool:
            moves.append(moved_from)
            return await replace(new, moved_from=moved_from)

        monkeypatch.setattr(flow.store.recurrences, "replace", noted)
        made = await create(desk)
        await change(desk, made, name="n")
        weekly = await change(desk, made, rrule="FREQ=WEEKLY")
        paused = await desk.pause(TENANT, made.id)
        await desk.resume(TENANT, made.id)
        assert moves == [None, made.progress, weekly.progress, paused.progress]

    async def test_a_change_that_always_comes_too_late_is_tried_a_few_times(
        self, flow: Flow, desk: Recurrences, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made, tries = await create(desk), list[int]()

        async def never(new: Recurrence, **_: object) -> bool:
            tries.append(new.revision)
            return False

        monkeypatch.setattr(flow.store.recurrences, "replace", never)
        with pytest.raises(Conflict) as refused:
            await change(desk, made, name="n")
        assert (refused.value.code, tries) == ("change_in_flight", [2] * TRIES)

    async def test_the_recipient_stays_even_if_its_id_belongs_to_another_person_now(
        self, flow: Flow, desk: Recurrences
    ) -> None:
        made = await create(desk)
        await flow.store.users.delete(TENANT, "ada")
        await flow.user()
        for to in (REQUEST["to"], {"phone": "+4915123456789"}):
            with pytest.raises(Invalid) as refused:
                await change(desk, made, request=REQUEST | {"to": to})
            assert (refused.value.code, refused.value.path) == ("other_recipient", "$.request.to")


async def test_what_does_not_exist_or_is_another_tenants_is_not_found(flow: Flow, desk: Recurrences) -> None:
    made, nothing = await create(desk), new_id(flow.clock.now(), 0, 1)
    for tenant, id in (("bank", made.id), (TENANT, nothing)):
        calls = (desk.get, desk.pause, desk.resume, desk.delete, _renamed(desk))
        for call in calls:
            with pytest.raises(NotFound) as refused:
                await call(tenant, id)
            assert (refused.value.kind, refused.value.name) == ("recurrence", to_text(RECURRENCE_PREFIX, id))
    assert await desk.get(TENANT, made.id) == made


async def test_recurrences_are_listed_newest_first(flow: Flow, desk: Recurrences) -> None:
    made: list[UUID] = []
    for _ in range(3):
        await flow.clock.advance(1)
        made.append((await create(desk)).id)

    def ids(found: Sequence[Recurrence]) -> list[UUID]:
        return [one.id for one in found]

    assert ids(await desk.list(TENANT, None, 2)) == [made[2], made[1]]
    assert ids(await desk.list(TENANT, made[1], 2)) == [made[0]]
    assert ids(await desk.list("bank", None, 2)) == []


def _renamed(desk: Recurrences) -> Any:
    async def rename(tenant: str, id: UUID) -> Recurrence:
        return await desk.change(tenant, id, b'{"name": "n"}')

    return rename


def _local(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).replace(tzinfo=None).isoformat()
