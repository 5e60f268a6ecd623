"""Dead letters and replays over HTTP; the flow behind them is tested in pipeline/test_replay.py."""

from __future__ import annotations

import random
from typing import Any
from uuid import UUID

import pytest

from support.api import OTHER, TENANT, Api, expect_problem
from tidings.model.ids import DELIVERY_PREFIX, delivery_id, new_id, to_text
from tidings.model.notification import Content, Notification, Recipient, SmsContent
from tidings.model.outcome import Outcome
from tidings.model.tenant import Scope
from tidings.model.user import Address
from tidings.model.vocabulary import Channel, State

NUMBER = Address(Channel.SMS, "+4915123456789")


async def dead(api: Api, state: State = State.FAILED, place: int = 0, **fields: Any) -> str:
    """A recorded dead letter; its id."""
    now = api.world.clock.now() - 60_000 + place
    content = Content(sms=SmsContent("x"))
    sent = Notification(
        new_id(now, 0, random.getrandbits(54)),
        TENANT,
        Recipient(phone=NUMBER.value),
        now,
        content=content,
        metadata=b'{"order":7}',
        **fields,
    )
    id = delivery_id(sent.id, 2)
    tried = Outcome(id, TENANT, now, State.DEFERRED, 1, reason="retry", provider="acme", detail="503", address=NUMBER)
    ended = Outcome(id, TENANT, now + 9, state, 2, reason="no_route", provider="acme", detail="code 7", address=NUMBER)
    await api.world.store.history.append(
        [Outcome(sent.id, TENANT, now, State.PENDING, notification=sent), tried, ended]
    )
    return to_text(DELIVERY_PREFIX, id)


async def test_dead_letters_are_listed_with_their_cause_page_by_page(api: Api) -> None:
    ids = [await dead(api, place=place) for place in range(3)]
    first = (await api.get("/v1/dead-letters?limit=2")).json()
    assert [letter["id"] for letter in first["dead_letters"]] == [ids[2], ids[1]]
    shown = first["dead_letters"][0]
    assert (shown["state"], shown["channel"], shown["address"]) == ("failed", "sms", NUMBER.value)
    assert (shown["provider"], shown["reason"], shown["detail"], shown["attempt"]) == ("acme", "no_route", "code 7", 2)
    assert (shown["replayable"], shown["obstacle"], shown["why"]) == (True, None, None)
    second = (await api.get(f"/v1/dead-letters?limit=2&cursor={first['next']}")).json()
    assert [letter["id"] for letter in second["dead_letters"]] == [ids[0]]
    assert second["next"] is None
    expect_problem(await api.get(f"/v1/notifications?cursor={first['next']}"), 400, "invalid_cursor")


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ("state=failed", 1),
        ("state=dead", 1),
        ("state=uncertain", 1),
        ("channel=sms", 2),
        ("channel=email", 0),
        ("category=marketing", 1),
        ("provider=acme&reason=no_route", 2),
        ("provider=other", 0),
        ("user_id=demo", 0),
        ("since=2020-01-01T00:00:00Z", 2),
        ("until=2020-01-01T00:00:00Z", 0),
    ],
)
async def test_filters(api: Api, query: str, count: int) -> None:
    await dead(api)
    await dead(api, State.DEAD, 1, category="marketing")
    await dead(api, State.UNCERTAIN, 2)
    await dead(api, State.SENT, 3)
    assert len((await api.get(f"/v1/dead-letters?{query}")).json()["dead_letters"]) == count


async def test_a_dead_letter_is_shown_with_its_attempts_and_notification(api: Api) -> None:
    id = await dead(api)
    shown = (await api.get(f"/v1/dead-letters/{id}")).json()
    assert [(attempt["number"], attempt["state"], attempt["detail"]) for attempt in shown["attempts"]] == [
        (1, "deferred", "503"),
        (2, "failed", "code 7"),
    ]
    assert shown["notification"]["id"] == shown["notification_id"]
    assert shown["notification"]["metadata"] == {"order": 7}


async def test_a_dead_letter_that_cannot_be_replayed_says_why(api: Api) -> None:
    id = await dead(api, expires_at=1)
    shown = (await api.get(f"/v1/dead-letters/{id}")).json()
    assert (shown["replayable"], shown["obstacle"], shown["why"]) == (False, "expired", "its expires_at has passed")
    refused = expect_problem(await api.post(f"/v1/dead-letters/{id}/replay"), 409, "expired")
    assert "its expires_at has passed" in refused["detail"]
    assert (await api.get("/v1/replays")).json()["replays"] == []


async def test_a_replay_records_the_key_that_asked(api: Api) -> None:
    id = await dead(api)
    answer = await api.post(f"/v1/dead-letters/{id}/replay")
    assert answer.status == 202
    shown = answer.json()
    assert (shown["state"], shown["expected"], shown["filter"]) == (
        "waiting",
        1,
        {"state": "failed", "delivery_id": id},
    )
    [key] = await api.world.store.tenants.keys(TENANT)
    assert shown["asked_by"] == {"key_id": key.id, "key_prefix": key.prefix}
    assert (await api.get(f"/v1/replays/{shown['id']}")).json() == shown
    assert (await api.get("/v1/replays")).json() == {"replays": [shown], "next": None}


async def test_replaying_a_filter(api: Api) -> None:
    await dead(api)
    await dead(api, State.DEAD, 1)
    body = {"filter": {"state": "dead", "since": "2020-01-01T00:00:00+01:00"}, "per_second": 7}
    answer = await api.post("/v1/replays", body)
    assert answer.status == 202
    shown = answer.json()
    assert answer.headers["location"] == f"/v1/replays/{shown['id']}"
    assert (shown["per_second"], shown["expected"]) == (7, 1)
    assert shown["filter"] == {"state": "dead", "since": "2019-12-31T23:00:00.000Z"}
    everything = (await api.post("/v1/replays", {})).json()
    assert (everything["filter"], everything["expected"], everything["per_second"]) == ({}, 2, 50)
    listed = (await api.get("/v1/replays?limit=1")).json()
    assert [replay["id"] for replay in listed["replays"]] == [everything["id"]]
    rest = (await api.get(f"/v1/replays?limit=1&cursor={listed['next']}")).json()
    assert [replay["id"] for replay in rest["replays"]] == [shown["id"]]


async def test_an_idempotency_key_makes_one_replay(api: Api) -> None:
    key = {"idempotency-key": "after-the-outage"}
    first = await api.post("/v1/replays", {}, headers=key)
    again = await api.post("/v1/replays", {}, headers=key)
    assert first.json() == again.json()
    assert again.headers["idempotency-replayed"] == "true"
    assert "idempotency-replayed" not in first.headers
    expect_problem(await api.post("/v1/replays", {"per_second": 9}, headers=key), 422, "idempotency_key_reused")
    expect_problem(await api.post("/v1/replays", {}, headers={"idempotency-key": ""}), 400, "invalid_idempotency_key")


async def test_a_replay_is_cancelled_once(api: Api) -> None:
    id = (await api.post("/v1/replays", {})).json()["id"]
    assert (await api.post(f"/v1/replays/{id}/cancel")).json()["state"] == "cancelled"
    expect_problem(await api.post(f"/v1/replays/{id}/cancel"), 409, "already_ended")


@pytest.mark.parametrize(
    ("body", "code", "path"),
    [
        ({"per_second": 0}, "wrong_type", "$.per_second"),
        ({"per_second": 10_001}, "wrong_type", "$.per_second"),
        ({"filter": {"state": "sent"}}, "wrong_type", "$.filter.state"),
        ({"filter": {"colour": "red"}}, "unknown_field", "$.filter.colour"),
        ({"filter": {"since": "yesterday"}}, "invalid_time", "$.filter.since"),
        ({"filter": {"since": "2026-01-31T09:00:00"}}, "invalid_time", "$.filter.since"),
        ({"filters": {}}, "unknown_field", "$.filters"),
    ],
)
async def test_a_request_that_means_nothing_starts_nothing(api: Api, body: Any, code: str, path: str) -> None:
    assert expect_problem(await api.post("/v1/replays", body), 422, code)["path"] == path
    assert (await api.get("/v1/replays")).json()["replays"] == []


async def test_a_replay_without_a_body_does_not_mean_all_dead_letters(api: Api) -> None:
    expect_problem(await api.post("/v1/replays"), 422, "missing_body")


async def test_unknown_replays_and_those_of_other_tenants_do_not_exist(api: Api) -> None:
    id = await dead(api)
    other = await api.key(OTHER)
    replay = (await api.post("/v1/replays", {})).json()["id"]
    sent = await dead(api, State.SENT, 1)
    for method, path in (
        ("GET", f"/v1/dead-letters/{id}"),
        ("POST", f"/v1/dead-letters/{id}/replay"),
        ("GET", f"/v1/replays/{replay}"),
        ("POST", f"/v1/replays/{replay}/cancel"),
    ):
        expect_problem(await api.call(method, path, key=other), 404, "not_found")
    assert (await api.get("/v1/dead-letters", key=other)).json()["dead_letters"] == []
    expect_problem(await api.get(f"/v1/dead-letters/{sent}"), 404, "not_found")
    expect_problem(await api.get("/v1/dead-letters/dlv_nonsense"), 404, "not_found")
    expect_problem(await api.get(f"/v1/dead-letters/{to_text(DELIVERY_PREFIX, UUID(int=256))}"), 404, "not_found")
    expect_problem(await api.get("/v1/replays/rpl_nonsense"), 404, "not_found")


async def test_a_key_that_may_only_read_may_not_replay(api: Api) -> None:
    id = await dead(api)
    reader = await api.key(TENANT, Scope.READ)
    assert (await api.get("/v1/dead-letters", key=reader)).status == 200
    expect_problem(await api.post(f"/v1/dead-letters/{id}/replay", key=reader), 403, "missing_scope")
    expect_problem(await api.post("/v1/replays", {}, key=reader), 403, "missing_scope")
