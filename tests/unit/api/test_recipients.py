"""Whom a request names: devices that come and go, and users that nobody knows."""

from __future__ import annotations

from support.api import OTHER, TENANT, Api, expect_problem
from tidings.model.tenant import Scope

SMS = {"sms": {"text": "hello"}}
DEMO = {"user_id": "demo"}


class TestDevices:
    async def test_one_call_adds_and_one_removes(self, api: Api) -> None:
        expect_problem(await api.post("/v1/users/ada/devices", {"token": "one"}), 404, "not_found")
        expect_problem(await api.delete("/v1/users/ada/devices/one"), 404, "not_found")
        await api.put("/v1/users/ada", {"devices": ["one"], "name": "Ada"})
        for _ in range(2):
            added = await api.post("/v1/users/ada/devices", {"token": " two:x/y%2F "})
            assert (added.status, added.json()) == (200, {"devices": ["one", "two:x/y%2F"]})
        for _ in range(2):
            gone = await api.delete("/v1/users/ada/devices/two%3Ax%2Fy%252F")
            assert (gone.status, gone.body) == (204, b"")
        user = (await api.get("/v1/users/ada")).json()
        assert (user["devices"], user["name"]) == (["one"], "Ada")
        expect_problem(await api.post("/v1/users/ada/devices", {"token": "a b"}), 422, "invalid_device")
        expect_problem(await api.post("/v1/users/ada/devices", {"token": ".."}), 422, "invalid_device")
        sender = await api.key(TENANT, Scope.SEND, Scope.READ)
        expect_problem(await api.post("/v1/users/ada/devices", {"token": "x"}, key=sender), 403, "missing_scope")

    async def test_the_fifty_first_drops_the_oldest(self, api: Api) -> None:
        tokens = [f"t{number}" for number in range(50)]
        await api.put("/v1/users/ada", {"devices": tokens})
        await api.post("/v1/users/ada/devices", {"token": "t3"})
        shown = (await api.post("/v1/users/ada/devices", {"token": "new"})).json()["devices"]
        assert shown == [*(token for token in tokens[1:] if token != "t3"), "t3", "new"]
        expect_problem(await api.put("/v1/users/ada", {"devices": [*tokens, "one more"]}), 422, "too_many")

    async def test_a_device_has_one_owner(self, api: Api) -> None:
        await api.put("/v1/users/a1", {"devices": ["shared", "own"]})
        await api.put("/v1/users/b1", {"devices": ["shared"]})
        assert (await api.get("/v1/users/a1")).json()["devices"] == ["own"]
        await api.post("/v1/users/a1/devices", {"token": "shared"})
        assert (await api.get("/v1/users/b1")).json()["devices"] == []
        users = [{"user_id": who, "devices": ["shared"]} for who in ("a1", "b1", "c1")]
        await api.post("/v1/users/batch", {"users": users})
        held = [(await api.get(f"/v1/users/{who}")).json()["devices"] for who in ("a1", "b1", "c1")]
        assert held == [[], [], ["shared"]]
        rival = await api.key(OTHER)
        await api.put("/v1/users/a1", {"devices": ["shared"]}, key=rival)
        assert (await api.get("/v1/users/c1")).json()["devices"] == ["shared"]


class TestUnknownUsers:
    async def test_an_unknown_user_is_refused_at_accept(self, api: Api) -> None:
        body = {"to": {"user_id": "nobody"}, "content": SMS}
        refusal = expect_problem(await api.post("/v1/notifications", body), 404, "unknown_user")
        assert refusal["path"] == "$.to.user_id"
        answer = await api.post("/v1/notifications/batch", {"notifications": [body, {"to": DEMO, "content": SMS}]})
        bad, good = answer.json()["results"]
        assert (bad["error"]["status"], bad["error"]["code"]) == (404, "unknown_user")
        assert bad["error"]["path"] == "$.notifications[0].to.user_id"
        assert "id" in good
        await api.put("/v1/users/nobody", {})
        assert (await api.post("/v1/notifications", body)).status == 202

    async def test_a_refused_request_keeps_no_key(self, api: Api) -> None:
        body, headers = {"to": {"user_id": "nobody"}, "content": SMS}, {"idempotency-key": "k"}
        expect_problem(await api.post("/v1/notifications", body, headers=headers), 404, "unknown_user")
        await api.put("/v1/users/nobody", {})
        assert (await api.post("/v1/notifications", body, headers=headers)).status == 202

    async def test_a_recurrence_for_one(self, api: Api) -> None:
        body = {
            "rrule": "FREQ=DAILY",
            "start": "2026-01-01T09:00",
            "request": {"to": {"user_id": "no"}, "content": SMS},
        }
        assert (
            expect_problem(await api.post("/v1/recurrences", body), 404, "unknown_user")["path"]
            == "$.request.to.user_id"
        )
