"""Input of real programs and people: nulls, byte order marks, times and pasted addresses of every kind."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any
from urllib.parse import quote

import pytest

from support.api import Api, expect_problem
from tidings.policy.instants import parse

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
