from __future__ import annotations

from typing import Any

from support.api import Api, expect_problem

ADA = {
    "email": "Ada@Example.com",
    "phone": "+49 30 901820",
    "devices": ["token-1", "token-2", "token-1"],
    "locale": "pt_br",
    "timezone": "europe/berlin",
    "name": "Ada Lovelace",
    "attributes": {"tier": "gold", "nested": [1, {"a": None}]},
}


async def test_a_user_is_stored_normalised_and_read_back(api: Api) -> None:
    stored = await api.put("/v1/users/ada", ADA)
    assert stored.status == 200
    shown = stored.json()
    assert shown["email"] == "Ada@example.com"
    assert shown["phone"] == "+4930901820"
    assert shown["devices"] == ["token-1", "token-2"]
    assert shown["locale"] == "pt-BR"
    assert shown["timezone"] == "Europe/Berlin"
    assert shown["attributes"] == ADA["attributes"]
    assert shown["preferences"] == {"opted_out": {}, "quiet_hours": None, "muted": False}
    assert (await api.get("/v1/users/ada")).json() == shown


async def test_put_replaces_the_profile_and_keeps_the_preferences(api: Api) -> None:
    await api.put("/v1/users/ada", {**ADA, "preferences": {"muted": True}})
    shown = (await api.put("/v1/users/ada", {"email": "new@example.com"})).json()
    assert (shown["email"], shown["phone"], shown["preferences"]["muted"]) == ("new@example.com", None, True)


async def test_ids_with_unusual_characters(api: Api) -> None:
    for id, written in [("a b", "a%20b"), ("ada@example.com", "ada@example.com"), ("日本", "%E6%97%A5%E6%9C%AC")]:
        assert (await api.put(f"/v1/users/{written}", {"locale": "ja"})).json()["user_id"] == id
        assert (await api.get(f"/v1/users/{written}")).json()["user_id"] == id


async def test_delete(api: Api) -> None:
    await api.put("/v1/users/ada", ADA)
    gone = await api.delete("/v1/users/ada")
    assert (gone.status, gone.body) == (204, b"")
    expect_problem(await api.get("/v1/users/ada"), 404, "not_found")
    expect_problem(await api.delete("/v1/users/ada"), 404, "not_found")


BAD_PROFILES: list[tuple[dict[str, Any], str, str]] = [
    ({"email": "nobody"}, "invalid_email", "$.email"),
    ({"email": "a@example.com\r\nBcc: b@example.com"}, "invalid_email", "$.email"),
    ({"email": 7}, "wrong_type", "$.email"),
    ({"phone": "030 901820"}, "invalid_phone", "$.phone"),
    ({"devices": ["ok", "not ok"]}, "invalid_device", "$.devices[1]"),
    ({"devices": "token"}, "wrong_type", "$.devices"),
    ({"devices": [None]}, "wrong_type", "$.devices[0]"),
    ({"devices": ["t"] * 51}, "too_many", "$.devices"),
    ({"locale": "no such"}, "invalid_locale", "$.locale"),
    ({"timezone": "Berlin"}, "invalid_timezone", "$.timezone"),
    ({"name": "Ada\r\nBcc: b@example.com"}, "invalid_name", "$.name"),
    ({"name": ""}, "invalid_name", "$.name"),
    ({"attributes": []}, "wrong_type", "$.attributes"),
    ({"attributes": {"a": "x" * 17_000}}, "too_large", "$.attributes"),
    ({"mail": "a@example.com"}, "unknown_field", "$.mail"),
    ({"preferences": {"muted": "yes"}}, "wrong_type", "$.preferences.muted"),
    (
        {"preferences": {"quiet_hours": {"start": "25:00", "end": "07:00"}}},
        "invalid_value",
        "$.preferences.quiet_hours.start",
    ),
    ({"preferences": {"quiet_hours": {"start": "22:00"}}}, "missing_field", "$.preferences.quiet_hours.end"),
    ({"preferences": {"opted_out": {"a b": "all"}}}, "invalid_name", "$.preferences.opted_out"),
]


async def test_a_bad_profile_is_refused_by_place_alone_and_in_a_batch(api: Api) -> None:
    for body, code, path in BAD_PROFILES:
        assert expect_problem(await api.put("/v1/users/ada", body), 422, code)["path"] == path
        answer = await api.post("/v1/users/batch", {"users": [{"user_id": "bo"}, {"user_id": "ada", **body}]})
        assert answer.status == 200
        good, bad = answer.json()["results"]
        assert good == {"user_id": "bo"}
        assert (bad["error"]["code"], bad["error"]["path"]) == (code, path.replace("$", "$.users[1]"))
    expect_problem(await api.get("/v1/users/ada"), 404, "not_found")


async def test_a_body_that_is_no_object(api: Api) -> None:
    for body in (b"[]", b'"text"', b"7", b"null", None):
        answer = await api.put("/v1/users/ada", body)
        assert answer.status == 422
        assert answer.json()["code"] in {"wrong_type", "missing_field"}
        assert answer.json()["path"] == "$"


async def test_a_batch_answers_each_in_order(api: Api) -> None:
    users: list[Any] = [{"user_id": "a", "email": "a@example.com"}, 7, {"email": "x@example.com"}, {"user_id": "b\n"}]
    users += [{"user_id": "a", "email": "later@example.com"}]
    results = (await api.post("/v1/users/batch", {"users": users})).json()["results"]
    assert results[0] == results[4] == {"user_id": "a"}
    assert [(result["error"]["code"], result["error"]["path"]) for result in results[1:4]] == [
        ("wrong_type", "$.users[1]"),
        ("missing_field", "$.users[2].user_id"),
        ("invalid_name", "$.users[3].user_id"),
    ]
    assert (await api.get("/v1/users/a")).json()["email"] == "later@example.com"


async def test_a_batch_has_bounds(api: Api) -> None:
    expect_problem(await api.post("/v1/users/batch", {"users": []}), 422, "batch_size")
    expect_problem(await api.post("/v1/users/batch", {"users": [{"user_id": "a"}] * 1001}), 422, "batch_size")
    full = [{"user_id": f"u{number}"} for number in range(1000)]
    assert len((await api.post("/v1/users/batch", {"users": full})).json()["results"]) == 1000


async def test_preferences_are_stored_as_they_are_shown(api: Api) -> None:
    wanted = {
        "opted_out": {"marketing": "all", "social": ["email", "sms"], "*": ["push"]},
        "quiet_hours": {"start": "22:00", "end": "07:05"},
        "muted": True,
    }
    assert (await api.put("/v1/users/demo/preferences", wanted)).json() == wanted
    assert (await api.get("/v1/users/demo/preferences")).json() == wanted
    assert (await api.get("/v1/users/demo")).json()["preferences"] == wanted
    assert (await api.put("/v1/users/demo/preferences", {})).json() == {
        "opted_out": {},
        "quiet_hours": None,
        "muted": False,
    }


async def test_an_empty_list_of_channels_refuses_nothing(api: Api) -> None:
    shown = (
        await api.put("/v1/users/demo/preferences", {"opted_out": {"marketing": [], "social": ["sms", "sms"]}})
    ).json()
    assert shown["opted_out"] == {"social": ["sms"]}


async def test_preferences_of_nobody(api: Api) -> None:
    expect_problem(await api.get("/v1/users/nobody/preferences"), 404, "not_found")
    expect_problem(await api.put("/v1/users/nobody/preferences", {}), 404, "not_found")


async def test_an_unknown_channel_is_named(api: Api) -> None:
    answer = await api.put("/v1/users/demo/preferences", {"opted_out": {"marketing": ["fax"]}})
    assert answer.status == 422
    assert answer.json()["path"].startswith("$.opted_out.marketing")
