"""The main features with real parts, on PostgreSQL alone and with Kafka as the queue."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from support import eventually
from support.system import System

CONTENT = {
    "email": {"subject": "Order 7", "text": "Thank you", "html": "<h1>Thank you</h1>"},
    "sms": {"text": "Thank you"},
    "push": {"title": "Order 7", "body": "Thank you"},
    "inapp": {"title": "Order 7", "body": "Thank you"},
}
SMS = {"sms": {"text": "Hello"}}
PERSON = {"email": "ada@example.com", "phone": "+4915123456789", "devices": ["device-token-1"], "locale": "pt-BR"}


async def test_one_call_reaches_every_channel_and_is_accounted_for(system: System) -> None:
    await system.user("ada", **PERSON)
    id = await system.send(to={"user_id": "ada"}, content=CONTENT)
    seen = await system.in_state(id, "delivered")
    assert {d["channel"] for d in seen["deliveries"]} == {"email", "sms", "push", "inapp"}

    async def receipts() -> Any:
        now = (await system.call("GET", f"/v1/notifications/{id}")).json
        states = {d["channel"]: d["state"] for d in now["deliveries"]}
        assert states == {"email": "delivered", "sms": "delivered", "push": "sent", "inapp": "delivered"}
        return now

    whole = await eventually(receipts)
    assert all(len(d["attempts"]) == 1 for d in whole["deliveries"])
    arrived = await eventually(lambda: _at_least(system, 4))
    assert {a["channel"] for a in arrived} == {"email", "sms", "push", "inapp"}
    inbox = (await system.call("GET", "/v1/users/ada/inbox")).json
    assert [item["title"] for item in inbox["items"]] == ["Order 7"]


async def test_a_template_arrives_in_the_users_language(system: System) -> None:
    await system.user("ada", **PERSON)
    made = await system.call(
        "POST",
        "/v1/templates",
        {
            "name": "welcome",
            "contents": {
                "en": {"email": {"subject": "Hello {{ name }}", "html": "<p>Hello {{ name }}</p>"}},
                "pt": {"email": {"subject": "Olá {{ name }}", "html": "<p>Olá {{ name }}</p>"}},
            },
            "variables": {"name": {"required": True}},
        },
    )
    assert made.status == 201, made.body
    assert (await system.call("POST", "/v1/templates/welcome/publish", {"version": 1})).status == 200
    id = await system.send(to={"user_id": "ada"}, template="welcome", data={"name": "<b>Ada</b>"})
    await system.rested(id)
    [mail] = await eventually(lambda: system.arrivals(channel="email"))
    assert "Olá" in str(mail)
    page = await system.call("GET", f"{system.sandbox}/_sandbox/mail/{mail['seq']}")
    assert b"&lt;b&gt;Ada" in page.body


async def test_a_batch_answers_for_each_item(system: System) -> None:
    items = [{"to": {"phone": "+4915123456789"}, "content": SMS}, {"to": {}}] * 50
    reply = await system.call("POST", "/v1/notifications/batch", {"notifications": items})
    assert reply.status == 202
    results = reply.json["results"]
    assert [("id" in result, "error" in result) for result in results] == [(True, False), (False, True)] * 50
    for result in results[::2][:3]:
        await system.rested(result["id"])
    assert await eventually(lambda: _at_least(system, 50))


async def test_an_idempotency_key_sends_once(system: System) -> None:
    body = {"to": {"phone": "+4915123456789"}, "content": SMS}
    headers = {"idempotency-key": "order-7"}
    first = await system.call("POST", "/v1/notifications", body, headers=headers)
    again = await system.call("POST", "/v1/notifications", body, headers=headers)
    other = await system.call("POST", "/v1/notifications", body | {"category": "x"}, headers=headers)
    assert (first.status, again.status, other.status) == (202, 202, 422)
    assert first.json["id"] == again.json["id"]
    assert again.headers["idempotency-replayed"] == "true"
    await system.rested(first.json["id"])
    assert len(await system.arrivals()) == 1


async def test_send_later_and_cancel(system: System) -> None:
    now = datetime.now(UTC)
    soon = await system.send(to={"email": "a@example.com"}, content=CONTENT, channels=["email"],
                             send_at=(now + timedelta(seconds=1)).isoformat())  # fmt: skip
    late = await system.send(to={"email": "b@example.com"}, content=CONTENT, channels=["email"],
                             send_at=(now + timedelta(hours=1)).isoformat())  # fmt: skip
    await system.in_state(late, "deferred")
    assert (await system.call("POST", f"/v1/notifications/{late}/cancel")).status in {200, 202}
    await system.in_state(late, "cancelled")
    await system.rested(soon)
    again = await system.call("POST", f"/v1/notifications/{late}/cancel")
    assert again.status == 409
    assert {a["to"] for a in await system.arrivals(channel="email")} == {"a@example.com"}


async def test_a_failed_call_is_tried_again(system: System) -> None:
    await system.call(
        "POST", f"{system.sandbox}/_sandbox/faults", {"vendor": "twilio", "kind": "status", "status": 503, "count": 1}
    )
    id = await system.send(to={"phone": "+4915123456789"}, content=SMS)
    seen = await system.rested(id)
    assert seen["state"] in {"sent", "delivered"}
    assert [attempt["number"] for attempt in seen["deliveries"][0]["attempts"]] == [1, 2]


async def test_an_opt_out_is_kept(system: System) -> None:
    await system.user("eve", **PERSON)
    reply = await system.call("PUT", "/v1/users/eve/preferences", {"opted_out": {"marketing": ["email"]}})
    assert reply.status == 200, reply.body
    id = await system.send(to={"user_id": "eve"}, content=CONTENT, category="marketing", channels=["email"])
    seen = await system.rested(id)
    assert (seen["state"], seen["reason"]) == ("suppressed", "opted_out")


async def test_a_tenant_cannot_see_another_tenants_notifications(system: System) -> None:
    id = await system.send(to={"phone": "+4915123456789"}, content=SMS)
    await system.rested(id)
    other = await system.other_tenant()
    assert (await other.call("GET", f"/v1/notifications/{id}")).status == 404
    assert (await other.call("POST", f"/v1/notifications/{id}/cancel")).status == 404
    assert (await other.call("GET", "/v1/notifications")).json["notifications"] == []


async def _at_least(system: System, count: int) -> list[dict[str, Any]]:
    arrived = await system.arrivals()
    assert len(arrived) >= count, len(arrived)
    return arrived
