from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import pytest

from support.api import OTHER, Api, expect_problem
from tidings.api.samples import BATCH, ORDER
from tidings.model.days import DAY_MS, day_of
from tidings.model.ids import DELIVERY_PREFIX, NOTIFICATION_PREFIX, delivery_id, from_text, new_id, to_text
from tidings.model.notification import Content, Notification, Recipient, SmsContent
from tidings.model.outcome import Outcome
from tidings.model.tenant import Scope
from tidings.model.vocabulary import State
from tidings.ports.queue import Item

SMS = {"to": {"user_id": "demo"}, "content": {"sms": {"text": "hello"}}}


async def record(api: Api, id: str, *states: State, tenant: str = "shop", category: str = "transactional") -> None:
    """Record the notification and one delivery, as the recorder would."""
    key = from_text(NOTIFICATION_PREFIX, id)
    now = api.world.clock.now()
    content = Content(sms=SmsContent("hello"))
    noted = Notification(key, tenant, Recipient(user_id="demo"), now, content=content, category=category)
    outcomes = [Outcome(key, tenant, now, State.PENDING, notification=noted)]
    outcomes += [Outcome(delivery_id(key, 2), tenant, now, state, attempt=1, provider="p") for state in states]
    await api.world.store.history.append(outcomes)


async def test_single_is_accepted_with_id_links_and_location(api: Api) -> None:
    answer = await api.post("/v1/notifications", ORDER)
    assert answer.status == 202
    assert answer.headers["content-type"] == "application/json"
    shown = answer.json()
    assert isinstance(from_text(NOTIFICATION_PREFIX, shown["id"]), UUID)
    assert shown["links"] == {
        "self": f"/v1/notifications/{shown['id']}",
        "cancel": f"/v1/notifications/{shown['id']}/cancel",
    }
    assert answer.headers["location"] == shown["links"]["self"]
    assert "idempotency-replayed" not in answer.headers
    assert await api.waiting() == 1


async def test_batch_answers_each_in_order_and_one_bad_item_spoils_nothing(api: Api) -> None:
    items: list[Any] = [SMS, {"to": {"user_id": "demo"}, "template": "nothing"}, SMS, 7]
    answer = await api.post("/v1/notifications/batch", {"notifications": items})
    assert answer.status == 202
    results = answer.json()["results"]
    assert [sorted(result) for result in results] == [["id"], ["error"], ["id"], ["error"]]
    assert results[1]["error"]["code"] == "unknown_template"
    assert results[1]["error"]["path"] == "$.notifications[1].template"
    assert results[1]["error"]["status"] == 422
    assert results[3]["error"]["path"] == "$.notifications[3]"
    assert await api.waiting() == 2


@pytest.mark.parametrize("count", [0, 1001])
async def test_batch_of_a_wrong_size_is_refused_whole(api: Api, count: int) -> None:
    refusal = expect_problem(
        await api.post("/v1/notifications/batch", {"notifications": [SMS] * count}), 422, "batch_size"
    )
    assert refusal["path"] == "$.notifications"
    assert await api.waiting() == 0


async def test_batch_of_a_thousand(api: Api) -> None:
    answer = await api.post("/v1/notifications/batch", {"notifications": [SMS] * 1000})
    assert len({result["id"] for result in answer.json()["results"]}) == 1000
    assert await api.waiting() == 1000


async def test_idempotency_key_replays_the_answer(api: Api) -> None:
    headers = {"Idempotency-Key": "order-1"}
    first = await api.post("/v1/notifications", SMS, headers=headers)
    again = await api.post("/v1/notifications", SMS, headers=headers)
    assert (first.status, again.status) == (202, 202)
    assert first.json() == again.json()
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert again.headers["location"] == first.headers["location"]
    other = {"to": {"user_id": "demo"}, "content": {"sms": {"text": "other"}}}
    expect_problem(await api.post("/v1/notifications", other, headers=headers), 422, "idempotency_key_reused")
    assert await api.waiting() == 1


async def test_idempotency_key_of_a_batch_replays_it(api: Api) -> None:
    headers = {"Idempotency-Key": "batch-1"}
    first = await api.post("/v1/notifications/batch", BATCH, headers=headers)
    again = await api.post("/v1/notifications/batch", BATCH, headers=headers)
    assert first.json() == again.json()
    assert again.headers["idempotency-replayed"] == "true"


async def test_idempotency_key_in_flight_is_a_conflict(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    put, begun, go_on = api.world.queue.put, asyncio.Event(), asyncio.Event()

    async def slow(items: Sequence[Item]) -> None:
        begun.set()
        await go_on.wait()
        await put(items)

    monkeypatch.setattr(api.world.queue, "put", slow)
    headers = {"Idempotency-Key": "busy"}
    first = asyncio.create_task(api.post("/v1/notifications", SMS, headers=headers))
    await begun.wait()
    try:
        expect_problem(await api.post("/v1/notifications", SMS, headers=headers), 409, "idempotency_in_flight")
    finally:
        go_on.set()
    assert (await first).status == 202


async def test_get_shows_state_deliveries_and_timeline(api: Api) -> None:
    id = (await api.post("/v1/notifications", {**SMS, "metadata": {"order": 7}})).json()["id"]
    await record(api, id, State.SENT, State.DELIVERED)
    shown = (await api.get(f"/v1/notifications/{id}")).json()
    assert shown["id"] == id
    assert shown["state"] == "delivered"
    assert [delivery["state"] for delivery in shown["deliveries"]] == ["delivered"]
    assert [entry["state"] for entry in shown["timeline"]][-1] == "delivered"
    assert shown["created_at"].endswith("Z")


async def test_list_filters_and_goes_on_by_cursor(api: Api) -> None:
    ids = []
    for index in range(5):
        ids.append((await api.post("/v1/notifications", SMS)).json()["id"])
        await record(api, ids[-1], State.SENT, category="odd" if index % 2 else "even")
    first = (await api.get("/v1/notifications?limit=2")).json()
    second = (await api.get(f"/v1/notifications?limit=2&cursor={first['next']}")).json()
    third = (await api.get(f"/v1/notifications?limit=2&cursor={second['next']}")).json()
    listed = [n["id"] for page in (first, second, third) for n in page["notifications"]]
    assert listed == sorted(ids, reverse=True)
    assert third["next"] is None
    odd = (await api.get("/v1/notifications?category=odd&user_id=demo&state=sent")).json()
    assert [n["id"] for n in odd["notifications"]] == sorted([ids[1], ids[3]], reverse=True)
    assert (await api.get("/v1/notifications?state=failed")).json()["notifications"] == []
    assert (await api.get("/v1/notifications?until=2020-01-01T00:00:00Z")).json()["notifications"] == []
    ever = (await api.get("/v1/notifications?since=0001-01-01T00:00:00Z&until=9999-12-31T23:59:59Z")).json()
    assert len(ever["notifications"]) == 5
    assert len((await api.get("/v1/notifications?since=2020-01-01T01:00:00%2B01:00")).json()["notifications"]) == 5


async def test_list_names_the_bad_parameter(api: Api) -> None:
    for query, parameter in [
        ("limit=0", "limit"),
        ("limit=201", "limit"),
        ("limit=many", "limit"),
        ("state=gone", "state"),
        ("since=yesterday", "since"),
        ("since=2026-01-01T00:00:00", "since"),
    ]:
        refusal = expect_problem(await api.get(f"/v1/notifications?{query}"), 400, "invalid_parameter")
        assert refusal["parameter"] == parameter


async def test_cursor_that_was_altered_or_taken_elsewhere_is_refused(api: Api) -> None:
    for _ in range(3):
        id = (await api.post("/v1/notifications", SMS)).json()["id"]
        await record(api, id, State.SENT)
    cursor = (await api.get("/v1/notifications?limit=1")).json()["next"]
    swapped = cursor[:-1] + ("A" if cursor[-1] != "A" else "B")
    for bad in (swapped, cursor[:-3], "x", "%F0%9F%8E%81", "", "A" * 5000):
        expect_problem(await api.get(f"/v1/notifications?cursor={bad}"), 400, "invalid_cursor")
    expect_problem(await api.get(f"/v1/notifications?cursor={cursor}", key=await api.key(OTHER)), 400, "invalid_cursor")
    expect_problem(await api.get(f"/v1/suppressions?cursor={cursor}"), 400, "invalid_cursor")


async def test_cancelling_marks_a_notification_in_flight(api: Api) -> None:
    id = (await api.post("/v1/notifications", SMS)).json()["id"]
    await record(api, id, State.DEFERRED)
    answer = await api.post(f"/v1/notifications/{id}/cancel")
    assert (answer.status, answer.json()) == (202, {"id": id, "state": "deferred", "will_be": "cancelled"})
    assert (await api.world.store.standings.look_up(notifications=[from_text(NOTIFICATION_PREFIX, id)])).cancelled


async def test_cancelling_a_notification_that_rests_is_a_conflict(api: Api) -> None:
    id = (await api.post("/v1/notifications", SMS)).json()["id"]
    await record(api, id, State.DELIVERED)
    refusal = expect_problem(await api.post(f"/v1/notifications/{id}/cancel"), 409, "already_ended")
    assert refusal["state"] == "delivered"
    assert not (await api.world.store.standings.look_up(notifications=[from_text(NOTIFICATION_PREFIX, id)])).cancelled


async def test_another_tenants_notification_does_not_exist(api: Api) -> None:
    old = to_text(NOTIFICATION_PREFIX, UUID(int=(1_600_000_000_000 << 80) | (7 << 76) | (2 << 62)))
    await record(api, old, State.SENT)
    stranger = await api.key(OTHER)
    assert (await api.get(f"/v1/notifications/{old}")).status == 200
    expect_problem(await api.get(f"/v1/notifications/{old}", key=stranger), 404, "not_found")
    expect_problem(await api.post(f"/v1/notifications/{old}/cancel", key=stranger), 404, "not_found")
    assert (await api.get("/v1/notifications", key=stranger)).json()["notifications"] == []


@pytest.mark.parametrize("id", ["x", "ntf_", "ntf_8zzzzzzzzzzzzzzzzzzzzzzzzz", "dlv_01k00000000000000000000000"])
async def test_a_text_that_is_no_id_is_not_found(api: Api, id: str) -> None:
    expect_problem(await api.get(f"/v1/notifications/{id}"), 404, "not_found")


async def test_scopes(api: Api) -> None:
    read, send = await api.key("shop", Scope.READ), await api.key("shop", Scope.SEND)
    expect_problem(await api.post("/v1/notifications", SMS, key=read), 403, "missing_scope")
    expect_problem(await api.post("/v1/notifications/batch", BATCH, key=read), 403, "missing_scope")
    expect_problem(await api.get("/v1/notifications", key=send), 403, "missing_scope")
    assert (await api.post("/v1/notifications", SMS, key=send)).status == 202
    assert (await api.get("/v1/notifications", key=read)).status == 200


async def test_an_archived_notification_is_410_with_the_command_that_reads_it(api: Api) -> None:
    world = api.world
    at = world.clock.now() - 40 * DAY_MS
    sent = Notification(new_id(at, 0, 7), "shop", Recipient(user_id="demo"), at, content=Content(sms=SmsContent("x")))
    dead = Outcome(delivery_id(sent.id, 2), "shop", at, State.DEAD, attempt=1, provider="p")
    await world.store.history.append([Outcome(sent.id, "shop", at, State.PENDING, notification=sent), dead])
    assert await world.store.days.begin(day_of(sent.id), world.clock.now()) is None
    assert await world.store.days.seal(day_of(sent.id), [], world.clock.now())
    id = to_text(NOTIFICATION_PREFIX, sent.id)
    for method, path in (("GET", ""), ("POST", "/cancel")):
        refusal = expect_problem(await api.call(method, f"/v1/notifications/{id}{path}"), 410, "archived")
        assert f"tidings archive show {id}" in refusal["detail"]
    expect_problem(await api.get(f"/v1/dead-letters/{to_text(DELIVERY_PREFIX, dead.id)}"), 410, "archived")
    unknown = to_text(NOTIFICATION_PREFIX, new_id(at - DAY_MS, 0, 7))
    expect_problem(await api.get(f"/v1/notifications/{unknown}"), 404, "not_found")
