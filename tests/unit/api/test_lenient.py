"""Input of real programs and people: nulls, byte order marks, times and pasted addresses of every kind."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any
from urllib.parse import quote

import pytest
from msgspec.structs import replace

from support.api import OTHER, TENANT, Api, expect_problem
from tidings.api import cursors
from tidings.api.samples import DEMO_TEMPLATE
from tidings.model import topics
from tidings.model.ids import NOTIFICATION_PREFIX, new_id, to_text
from tidings.model.notification import Notification, Recipient
from tidings.model.outcome import Outcome, Wait
from tidings.model.tenant import Scope
from tidings.model.vocabulary import State
from tidings.model.wire import encode
from tidings.policy.instants import parse
from tidings.templating.check import is_name

SMS = {"sms": {"text": "hello"}}
DEMO = {"user_id": "demo"}


class TestNulls:
    async def test_a_profile(self, api: Api) -> None:
        fields = ("email", "phone", "devices", "locale", "timezone", "name", "attributes", "preferences")
        absent = (await api.put("/v1/users/absent", {})).json()
        null = (await api.put("/v1/users/null", dict.fromkeys(fields))).json()
        shown = {field: absent[field] for field in fields}
        assert {field: null[field] for field in fields} == shown
        batch = await api.post("/v1/users/batch", {"users": [{"user_id": "batched", **dict.fromkeys(fields)}]})
        assert batch.json()["results"] == [{"user_id": "batched"}]
        preferences = {"preferences": {"opted_out": None, "quiet_hours": None, "muted": None}}
        assert (await api.put("/v1/users/null", preferences)).json()["preferences"] == absent["preferences"]

    async def test_a_notification(self, api: Api) -> None:
        optional = ["template", "data", "channels", "strategy", "category", "priority", "send_at", "expires_at"]
        optional += ["metadata", "send_at_local"]
        to = {**DEMO, "email": None, "phone": None, "devices": None, "locale": None, "timezone": None}
        content = {**SMS, "email": None, "push": None, "inapp": None}
        body = {"to": to, "content": content, **dict.fromkeys(optional)}
        sent = await api.post("/v1/notifications", body)
        assert sent.status == 202, sent.body
        batch = await api.post("/v1/notifications/batch", {"notifications": [body]})
        assert "id" in batch.json()["results"][0], batch.body

    async def test_required_fields_must_not_be_null(self, api: Api) -> None:
        expect_problem(await api.post("/v1/notifications", {"to": None, "content": SMS}), 422, "wrong_type")
        expect_problem(await api.post("/v1/notifications/batch", {"notifications": None}), 422, "wrong_type")
        expect_problem(await api.post("/v1/users/batch", {"users": None}), 422, "wrong_type")
        expect_problem(await api.post("/v1/users/demo/devices", {"token": None}), 422, "wrong_type")

    async def test_a_category_a_suppression_and_marks(self, api: Api) -> None:
        fields = ("critical", "allow_doubles", "description", "quiet_hours", "retries", "caps", "excess")
        made = await api.put("/v1/categories/news", dict.fromkeys(fields))
        assert made.status == 200, made.body
        body = {"channel": "email", "address": "a@example.com", "reason": None}
        assert (await api.post("/v1/suppressions", body)).json()["reason"] == "by_hand"
        assert (await api.post("/v1/users/demo/inbox/read", {"ids": None, "all": True})).status == 200

    async def test_a_template_a_replay_and_a_recurrence(self, api: Api) -> None:
        template = {"name": "nulls", "contents": {"en": SMS}, "default_locale": None, "variables": None}
        assert (await api.post("/v1/templates", {**template, "description": None})).status == 201
        variable = {"variables": {"a": {"required": None, "description": None, "example": None}}}
        made = await api.post("/v1/templates/nulls/versions", {"contents": {"en": SMS}, **variable})
        assert made.json()["variables"] == {"a": {}}, "required, as when it is left out"
        assert (await api.post("/v1/replays", {"filter": None, "per_second": None})).status == 202
        body = {"rrule": "FREQ=DAILY", "start": "2026-01-01T09:00", "request": {"to": DEMO, "content": SMS}}
        made = await api.post("/v1/recurrences", {**body, "timezone": None, "name": None, "grace_seconds": None})
        assert made.status == 201, made.body
        changed = await api.patch(f"/v1/recurrences/{made.json()['id']}", {"rrule": None, "name": "b", "request": None})
        assert (changed.json()["rrule"], changed.json()["name"]) == ("FREQ=DAILY", "b")

    async def test_a_change_of_nothing(self, api: Api) -> None:
        fields = dict.fromkeys(("send_at", "send_at_local", "data", "metadata", "priority"))
        expect_problem(await api.patch("/v1/notifications/ntf_1", fields), 422, "nothing_to_change")

    async def test_a_category_with_null_is_left_out(self, api: Api) -> None:
        await api.put("/v1/users/x", {"preferences": {"opted_out": {"m": None, "n": "all"}}})
        assert (await api.get("/v1/users/x/preferences")).json()["opted_out"] == {"n": "all"}

    @pytest.mark.parametrize(
        ("opted_out", "path", "words"),
        [
            ({"m": "alll"}, "m", "write 'all', or a list of channels"),
            ({"m": 5}, "m", "write 'all', or a list of channels"),
            ({"m": {}}, "m", "write 'all', or a list of channels"),
            ({"m": ["sms", "fax"]}, "m[1]", "'email', 'sms', 'push'"),
            ({"m": ["sms", 5]}, "m[1]", "'email', 'sms', 'push'"),
            ({"channels": ["all"]}, "channels[0]", "'email', 'sms', 'push'"),
        ],
    )
    async def test_what_is_wrong_with_an_opt_out_is_named(
        self, api: Api, opted_out: Any, path: str, words: str
    ) -> None:
        for where, body in (
            ("", {"opted_out": opted_out}),
            (".preferences", {"preferences": {"opted_out": opted_out}}),
        ):
            answer = await api.put(f"/v1/users/demo{'' if where else '/preferences'}", body)
            refusal = expect_problem(answer, 422, "invalid_value")
            assert refusal["path"] == f"${where}.opted_out.{path}"
            assert words in refusal["detail"]
            assert "more like this" not in refusal["detail"]

    @pytest.mark.parametrize("time", ["25:00", "9:00", "09:60", "", "09:00:00", "noon"])
    async def test_how_a_time_of_day_is_written_is_said(self, api: Api, time: str) -> None:
        answer = await api.put("/v1/users/demo/preferences", {"quiet_hours": {"start": time, "end": "07:00"}})
        refusal = expect_problem(answer, 422, "invalid_value")
        assert (refusal["path"], refusal["detail"]) == (
            "$.quiet_hours.start", "a time of day is written HH:MM, from 00:00 to 23:59",
        )  # fmt: skip

    @pytest.mark.parametrize(
        ("field", "value", "words"),
        [
            ("priority", "urgent", "this is one of critical, normal, bulk"),
            ("strategy", "any", "this is one of all, first_reachable"),
            ("channels", "email", "this must be a list or null, not a text"),
            ("to", 5, "this must be an object, not a whole number"),
            ("template", 1.5, "this must be a text or null, not a number"),
        ],
    )
    async def test_what_a_field_takes_is_said_in_words(self, api: Api, field: str, value: Any, words: str) -> None:
        answer = await api.post("/v1/notifications", {"to": DEMO, "content": SMS} | {field: value})
        refusal = expect_problem(answer, 422, "wrong_type")
        assert (refusal["path"], refusal["detail"]) == (f"$.{field}", words)

    async def test_paths_name_nothing_of_ours(self, api: Api) -> None:
        item = {"user_id": "x", "preferences": {"opted_out": {"literal['all']": 5}}}
        [result] = (await api.post("/v1/users/batch", {"users": [item]})).json()["results"]
        assert result["error"]["path"] == "$.users[0].preferences.opted_out['literal[\\'all\\']']"


@pytest.mark.parametrize("path", ["/v1/notifications", "/v1/notifications/batch", "/v1/users/batch", "/v1/templates"])
async def test_a_byte_order_mark_is_named(api: Api, path: str) -> None:
    refusal = expect_problem(await api.post(path, b"\xef\xbb\xbf{}"), 400, "malformed_json")
    assert "byte order mark" in refusal["detail"]


class TestTimes:
    @pytest.mark.parametrize(
        ("text", "instant"),
        [
            ("2027-01-31T09:00Z", "2027-01-31T09:00:00+00:00"),
            ("2027-01-31t09:00:00z", "2027-01-31T09:00:00+00:00"),
            ("2027-01-31 09:00:00Z", "2027-01-31T09:00:00+00:00"),
            ("2027-01-31T09:00+01:00", "2027-01-31T08:00:00+00:00"),
            ("2027-01-31T09:00:00+0530", "2027-01-31T03:30:00+00:00"),
            ("2027-01-31T09:00:00-08", "2027-01-31T17:00:00+00:00"),
            ("2027-01-31T09:00:00.123456789Z", "2027-01-31T09:00:00.123000+00:00"),
            ("2026-12-31T23:59:60Z", "2027-01-01T00:00:00+00:00"),
            ("2027-01-01T08:59:60+09:00", "2027-01-01T00:00:00+00:00"),
        ],
    )
    async def test_are_accepted(self, api: Api, text: str, instant: str) -> None:
        assert parse(text) == round(datetime.fromisoformat(instant).timestamp() * 1000)
        body = {"to": DEMO, "content": SMS, "expires_at": text}
        assert (await api.post("/v1/notifications", body)).status == 202
        query = text.replace("+", "%2B").replace(" ", "%20")
        assert (await api.get(f"/v1/notifications?until={query}")).status == 200
        assert (await api.post("/v1/replays", {"filter": {"until": text}})).status == 202

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("2027-02-30T09:00:00Z", "there is no 2027-02-30"),
            ("2027-13-01T09:00:00Z", "there is no month 13"),
            ("2027-00-01T09:00:00Z", "there is no month 00"),
            ("2027-01-31T24:00:00Z", "there is no hour 24"),
            ("2027-01-31T25:00:00Z", "there is no hour 25"),
            ("2027-01-31T09:60:00Z", "there is no minute 60"),
            ("2027-01-31T09:00:61Z", "there is no second 61"),
            ("2027-01-31T09:00:60Z", "leap second"),
            ("2027-01-31T09:00:00+24:00", r"no offset \+24:00"),
            ("2027-01-31T09:00:00+01:60", r"no offset \+01:60"),
            ("0000-01-01T00:00:00Z", "no year 0000"),
            ("2027-01-31T09:00:00", "with its offset"),
            ("2027-01-31T09:00", "with its offset"),
            ("2027-01-31", "a date alone"),
            ("2027-01-31T9:00:00Z", "two digits each"),
            ("2027-01-31T09:00:00+01:00[Europe/Berlin]", "leave out '.Europe/Berlin.'"),
            ("2027-01-31T09:00:00 CET", "not ' CET'"),
            ("tomorrow", "write the time as"),
            ("", "write the time as"),
        ],
    )
    async def test_are_refused_with_the_fault(self, api: Api, text: str, words: str) -> None:
        answers = [
            await api.post("/v1/notifications", {"to": DEMO, "content": SMS, "send_at": text}),
            await api.post("/v1/notifications", {"to": DEMO, "content": SMS, "expires_at": text}),
            await api.post("/v1/replays", {"filter": {"since": text}}),
        ]
        for answer, path in zip(answers, ("$.send_at", "$.expires_at", "$.filter.since"), strict=True):
            assert answer.status == 422
            assert answer.json()["path"] == path
            assert re.search(words, answer.json()["detail"]), answer.json()["detail"]
        query = text.replace("+", "%2B").replace(" ", "%20")
        answer = await api.get(f"/v1/notifications?since={query}")
        assert re.search(words, expect_problem(answer, 400, "invalid_parameter")["detail"])

    async def test_a_plus_that_became_a_space_is_named(self, api: Api) -> None:
        answer = await api.get("/v1/notifications?since=2027-01-31T09:00:00+01:00")
        assert "%2B" in expect_problem(answer, 400, "invalid_parameter")["detail"]

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("2027-02-30T09:00", "no such day"),
            ("24:00", "hours are 00 to 23"),
            ("1969-01-01T09:00", "1970"),
            ("9", "write"),
        ],
    )
    async def test_local_times_are_refused_with_the_fault(self, api: Api, text: str, words: str) -> None:
        body = {"to": DEMO, "content": SMS, "send_at_local": text}
        assert words in expect_problem(await api.post("/v1/notifications", body), 422, "invalid_local_time")["detail"]


class TestPasted:
    @pytest.mark.parametrize(
        ("field", "text", "form"),
        [
            ("phone", "\u202d+4930901820\u202c", "+4930901820"),
            ("phone", "+49 30/901820", "+4930901820"),
            ("phone", "＋４９－３０－９０１８２０", "+4930901820"),
            ("phone", "+49\u00a030\u2011901820\n", "+4930901820"),
            ("phone", "+52 1 55 1234 5678", "+525512345678"),
            ("email", " ada@example.com\t", "ada@example.com"),
            ("email", "\u200bada@exam\u00adple.com\ufeff", "ada@example.com"),
            ("email", "ada\u2060@example.com", "ada@example.com"),
        ],
    )
    async def test_addresses_are_the_same_everywhere(self, api: Api, field: str, text: str, form: str) -> None:
        assert (await api.put("/v1/users/x", {field: text})).json()[field] == form
        batch = await api.post("/v1/users/batch", {"users": [{"user_id": "y", field: text}]})
        assert batch.json()["results"] == [{"user_id": "y"}]
        assert (await api.get("/v1/users/y")).json()[field] == form
        assert (await api.post("/v1/notifications", {"to": {field: text}, "content": SMS})).status == 202
        channel = {"phone": "sms", "email": "email"}[field]
        listed = await api.post("/v1/suppressions", {"channel": channel, "address": text})
        assert listed.json()["address"] == form
        assert (await api.delete(f"/v1/suppressions/{channel}/{quote(text, safe='')}")).status == 204

    @pytest.mark.parametrize(
        ("field", "text", "words"),
        [
            ("phone", "+49 30 x901820", "'x' (U+0078) after the ' '"),
            ("phone", "+22587100000", "10 digits; this one has 8"),
            ("phone", "030 901820", "international form"),
            ("email", "ada lovelace@example.com", "a space after the 'a'"),
            ("email", "ada\u00a0@example.com", "U+00A0 after the 'a'"),
            ("email", "<ada@example.com", "'<' (U+003C) before the 'a'"),
            ("email", "ada@exa mple.com", "a space after the 'a'"),
            ("email", "a..b@docomo.example", "no two in a row"),
        ],
    )
    async def test_a_refusal_names_the_character(self, api: Api, field: str, text: str, words: str) -> None:
        assert words in expect_problem(await api.put("/v1/users/x", {field: text}), 422, f"invalid_{field}")["detail"]


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


LISTINGS = {
    "notifications": "/v1/notifications",
    "dead-letters": "/v1/dead-letters",
    "replays": "/v1/replays",
    "recurrences": "/v1/recurrences",
    "templates": "/v1/templates",
    "suppressions": "/v1/suppressions",
    "inbox demo": "/v1/users/demo/inbox",
    f"versions/{DEMO_TEMPLATE}": f"/v1/templates/{DEMO_TEMPLATE}/versions",
}
FORGED = [
    "",
    "garbage",
    "\0",
    "a\0b",
    "null",
    "5",
    "[]",
    "{}",
    '["sms",5]',
    '["fax","a"]',
    '["sms"]',
    '["email","a\\u0000"]',
    '["email",""]',
    "[" * 100,
    "ntf_",
    "ntf_zzzzzzzzzzzzzzzzzzzzzzzzzz",
    "dlv_01k0000000000000000000000u",
    "ntf_01K0000000000000000000000",
    "é" * 500,
    "..",
    "a b",
    "'; --",
    "-1",
    "9" * 40,
]


@pytest.mark.parametrize("listing", LISTINGS)
async def test_a_forged_cursor_is_refused(api: Api, listing: str) -> None:
    """The checksum of a cursor is no secret, so a forged cursor may have a right checksum and a bad position."""
    for position in FORGED:
        cursor = cursors.encode(TENANT, listing, position)
        answer = await api.get(f"{LISTINGS[listing]}?cursor={cursor}")
        if (listing == "templates" and is_name(position)) or (listing.startswith("versions/") and position == "5"):
            continue  # a name, or a number, is a position, whoever wrote it
        assert answer.status == 400, (listing, position, answer.body)
        assert answer.json()["code"] == "invalid_cursor"


class TestScopes:
    async def test_a_key_that_may_only_send_reads_nothing_by_changing(self, api: Api) -> None:
        sender = await api.key(TENANT, Scope.SEND)
        body = {"rrule": "FREQ=DAILY", "start": "2026-01-01T09:00", "request": {"to": DEMO, "content": SMS}}
        id = (await api.post("/v1/recurrences", body)).json()["id"]
        assert (await api.get(f"/v1/recurrences/{id}", key=sender)).status == 403
        for answer in (
            await api.patch(f"/v1/recurrences/{id}", {"name": "x"}, key=sender),
            await api.post(f"/v1/recurrences/{id}/pause", key=sender),
            await api.post(f"/v1/recurrences/{id}/resume", key=sender),
        ):
            assert answer.status == 200
            assert set(answer.json()) == {"id", "state"}
        assert "request" in (await api.patch(f"/v1/recurrences/{id}", {"name": "y"})).json()

    async def test_a_key_that_may_only_send_does_not_read_a_notification_by_changing_it(self, api: Api) -> None:
        now = api.world.clock.now()
        waiting = Notification(
            new_id(now, 0, 1), TENANT, Recipient("demo"), now, send_at=now + 60_000, metadata=b'{"secret":1}'
        )
        wait = Wait(now + 60_000, topics.REQUESTS[1], f"{TENANT}/demo", encode(replace(waiting, step=1)))
        fact = Outcome(waiting.id, TENANT, now, State.DEFERRED, reason="send_at", notification=waiting, wait=wait)
        await api.world.store.history.append([fact])
        path = f"/v1/notifications/{to_text(NOTIFICATION_PREFIX, waiting.id)}"
        sender = await api.key(TENANT, Scope.SEND)
        changed = await api.patch(path, {"priority": "bulk"}, key=sender)
        assert (changed.status, changed.json()) == (200, {"id": path.rpartition("/")[2], "state": "deferred"})
        assert (await api.patch(path, {"priority": "normal"})).json()["metadata"] == {"secret": 1}
