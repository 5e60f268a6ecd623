"""Recurrences and changes over HTTP: status codes, shapes, scopes and tenants."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from support.api import OTHER, Api, expect_problem
from tidings.api.samples import RECURRENCE
from tidings.model.ids import NOTIFICATION_PREFIX, from_text
from tidings.model.notification import Content, Notification, Recipient, SmsContent
from tidings.model.outcome import Outcome, Wait
from tidings.model.tenant import Scope
from tidings.model.vocabulary import Reason, State
from tidings.model.wire import encode
from tidings.policy import recurring

HOUR = 3_600_000


async def created(api: Api, **more: Any) -> Any:
    answer = await api.post("/v1/recurrences", RECURRENCE | more)
    assert answer.status == 201, answer.body
    return answer.json()


async def test_it_is_created_read_listed_and_deleted(api: Api) -> None:
    made = await created(api)
    assert made["id"].startswith("rec_")
    assert (made["state"], made["grace_seconds"], made["last_fired_at"]) == ("active", 3600, None)
    assert made["request"] == RECURRENCE["request"]
    assert len(made["next"]) == 5
    assert all(coming["local"].endswith("T09:00:00") and coming["at"].endswith("Z") for coming in made["next"])
    path = f"/v1/recurrences/{made['id']}"
    assert (await api.get(path)).json() == made
    second = await created(api, name="second")
    first_page = (await api.get("/v1/recurrences?limit=1")).json()
    assert [recurrence["id"] for recurrence in first_page["recurrences"]] == [second["id"]]
    rest = (await api.get(f"/v1/recurrences?limit=1&cursor={first_page['next']}")).json()
    assert ([recurrence["id"] for recurrence in rest["recurrences"]], rest["next"]) == ([made["id"]], None)
    assert (await api.delete(path)).status == 204
    expect_problem(await api.get(path), 404, "not_found")
    expect_problem(await api.delete(path), 404, "not_found")


async def test_what_is_left_out_is_a_field_or_the_lines_of_a_calendar(api: Api) -> None:
    made = await created(api, rrule="FREQ=DAILY;", exdates=["2030-12-24", "2030-12-25T09:00"])
    assert (made["rrule"], made["exdates"]) == ("FREQ=DAILY;", ["2030-12-24", "2030-12-25T09:00:00"])
    path = f"/v1/recurrences/{made['id']}"
    left_out = made["next"][1]["local"]
    shown = (await api.patch(path, {"exdates": [left_out, made["next"][2]["local"][:10]]})).json()
    assert [occurrence["local"] for occurrence in shown["next"][:2]] == [
        made["next"][0]["local"],
        made["next"][3]["local"],
    ]
    shown = (await api.patch(path, {"rrule": "FREQ=DAILY;INTERVAL=1"})).json()
    assert shown["exdates"][0] == left_out
    shown = (await api.patch(path, {"rrule": "RRULE:FREQ=DAILY\nEXDATE:20301224T090000"})).json()
    assert (shown["rrule"], shown["exdates"]) == ("RRULE:FREQ=DAILY", ["2030-12-24T09:00:00"])
    assert (await api.patch(path, {"exdates": []})).json()["exdates"] == []
    assert (
        expect_problem(await api.patch(path, {"exdates": ["soon"]}), 422, "invalid_local_time")["path"]
        == "$.exdates[0]"
    )
    both = {"rrule": "FREQ=DAILY\nEXDATE:20301224", "exdates": ["2030-12-24"]}
    assert expect_problem(await api.patch(path, both), 422, "ambiguous_exdates")["path"] == "$.exdates"
    many = {"exdates": ["2030-12-24"] * 501}
    assert expect_problem(await api.patch(path, many), 422, "too_many")["path"] == "$.exdates"


async def test_a_listing_computes_no_occurrence(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    made = [await created(api, name=str(number)) for number in range(3)]

    def computed(*_: object) -> None:
        raise AssertionError("a listing has no bound then")

    monkeypatch.setattr(recurring, "_occurrences", computed)
    listed = (await api.get("/v1/recurrences")).json()["recurrences"]
    assert [recurrence["next"] for recurrence in listed] == [recurrence["next"][:1] for recurrence in reversed(made)]


async def test_it_is_paused_resumed_and_changed(api: Api) -> None:
    made = await created(api)
    path = f"/v1/recurrences/{made['id']}"
    paused = (await api.post(f"{path}/pause")).json()
    assert (paused["state"], paused["next"]) == ("paused", [])
    resumed = (await api.post(f"{path}/resume")).json()
    assert (resumed["state"], resumed["next"]) == ("active", made["next"])
    changed = await api.patch(path, {"rrule": "FREQ=DAILY", "timezone": "europe/berlin", "grace_seconds": 60})
    assert changed.status == 200
    shown = changed.json()
    assert (shown["rrule"], shown["timezone"], shown["grace_seconds"]) == ("FREQ=DAILY", "Europe/Berlin", 60)
    assert shown["name"] == made["name"]
    refusal = expect_problem(
        await api.patch(path, {"request": {"to": {"user_id": "demo"}}}), 422, "content_or_template"
    )
    assert refusal["path"] == "$.request"
    expect_problem(await api.patch(path, {}), 422, "nothing_to_change")


async def test_a_recurrence_without_further_occurrences_has_ended(api: Api) -> None:
    made = await created(api)
    changed = await api.patch(f"/v1/recurrences/{made['id']}", {"rrule": "FREQ=DAILY;UNTIL=20260106T000000"})
    assert (changed.json()["state"], changed.json()["next"]) == ("ended", [])


async def test_another_tenants_recurrence_does_not_exist(api: Api) -> None:
    made = await created(api)
    key = await api.key(OTHER)
    path = f"/v1/recurrences/{made['id']}"
    for method, place in (("GET", path), ("DELETE", path), ("POST", f"{path}/pause"), ("POST", f"{path}/resume")):
        expect_problem(await api.call(method, place, key=key), 404, "not_found")
    expect_problem(await api.patch(path, {"name": "x"}, key=key), 404, "not_found")
    assert (await api.get("/v1/recurrences", key=key)).json()["recurrences"] == []


async def test_scopes_are_required(api: Api) -> None:
    made = await created(api)
    reading, sending = await api.key("shop", Scope.READ), await api.key("shop", Scope.SEND)
    expect_problem(await api.post("/v1/recurrences", RECURRENCE, key=reading), 403, "missing_scope")
    expect_problem(await api.patch(f"/v1/recurrences/{made['id']}", {"name": "x"}, key=reading), 403, "missing_scope")
    expect_problem(await api.get("/v1/recurrences", key=sending), 403, "missing_scope")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "malformed_json"),
        (b"[]", 422, "wrong_type"),
        ({"rrule": "FREQ=DAILY"}, 422, "missing_field"),
        (RECURRENCE | {"rrule": 7}, 422, "wrong_type"),
        (RECURRENCE | {"timezone": "user\0"}, 422, "nul_character"),
    ],
)
async def test_invalid_recurrences_are_refused(api: Api, body: Any, status: int, code: str) -> None:
    expect_problem(await api.post("/v1/recurrences", body), status, code)
    assert (await api.get("/v1/recurrences")).json()["recurrences"] == []


async def waiting(api: Api) -> str:
    """A notification that was routed and waits for an hour."""
    body = {"to": {"user_id": "demo"}, "content": {"sms": {"text": "hello"}}}
    id: str = (await api.post("/v1/notifications", body)).json()["id"]
    key, now = from_text(NOTIFICATION_PREFIX, id), api.world.clock.now()
    content = Content(sms=SmsContent("hello"))
    sent = Notification(key, "shop", Recipient(user_id="demo"), now, content=content, send_at=now + HOUR)
    wait = Wait(now + HOUR, "requests.normal", "shop/demo", encode(replace(sent, step=1)))
    fact = Outcome(key, "shop", now, State.DEFERRED, reason=Reason.SEND_AT, notification=sent, wait=wait)
    await api.world.store.history.append([fact])
    return id


async def test_a_waiting_notification_is_changed(api: Api) -> None:
    id = await waiting(api)
    before = (await api.get(f"/v1/notifications/{id}")).json()
    assert (before["state"], before["next_at"]) == ("deferred", before["send_at"])
    answer = await api.patch(f"/v1/notifications/{id}", {"send_at": "2099-01-01T00:00:00Z"})
    expect_problem(answer, 422, "too_far")
    answer = await api.patch(f"/v1/notifications/{id}", {"send_at_local": "10:30", "metadata": {"a": [1, 2.50]}})
    assert answer.status == 200
    shown = answer.json()
    assert (shown["state"], shown["reason"], shown["send_at"]) == ("deferred", "changed", None)
    assert shown["send_at_local"].endswith("T10:30:00")
    assert shown["next_at"] == shown["send_at_local"] + ".000Z"
    assert shown["metadata"] == {"a": [1, 2.5]}
    assert (await api.get(f"/v1/notifications/{id}")).json() == shown


async def test_a_sent_notification_cannot_be_changed_and_anothers_does_not_exist(api: Api) -> None:
    id = await waiting(api)
    expect_problem(
        await api.patch(f"/v1/notifications/{id}", {"metadata": {}}, key=await api.key(OTHER)), 404, "not_found"
    )
    expect_problem(
        await api.patch(f"/v1/notifications/{id}", {"metadata": {}}, key=await api.key("shop", Scope.READ)),
        403,
        "missing_scope",
    )
    assert len(await api.world.store.schedule.due(api.world.clock.now() + HOUR, 10, 30.0)) == 1
    expect_problem(await api.patch(f"/v1/notifications/{id}", {"metadata": {}}), 409, "too_late")
    expect_problem(await api.patch(f"/v1/notifications/{id}", {}), 422, "nothing_to_change")
    expect_problem(await api.patch(f"/v1/notifications/{id}", {"category": "x"}), 422, "unknown_field")
