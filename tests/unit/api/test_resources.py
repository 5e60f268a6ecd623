from __future__ import annotations

from support.api import Api, expect_problem


async def test_categories(api: Api) -> None:
    assert (await api.get("/v1/categories")).json() == {"categories": []}
    stored = await api.put("/v1/categories/security", {"critical": True, "description": "Codes"})
    assert stored.json() == {
        "name": "security",
        "critical": True,
        "allow_doubles": False,
        "description": "Codes",
        "quiet_hours": "hold",
        "retries": {"attempts": None, "base_seconds": None, "cap_seconds": None},
        "caps": [],
        "excess": "drop",
        "dedupe_seconds": 0,
    }
    await api.put("/v1/categories/marketing", {})
    listed = (await api.get("/v1/categories")).json()["categories"]
    assert [category["name"] for category in listed] == ["marketing", "security"]
    expect_problem(await api.put("/v1/categories/security", {"critical": "yes"}), 422, "wrong_type")
    assert expect_problem(await api.put("/v1/categories/-x", {}), 400, "invalid_parameter")["parameter"] == "name"


async def test_a_category_is_returned_as_it_was_declared(api: Api) -> None:
    said = {
        "critical": False,
        "allow_doubles": True,
        "description": "",
        "quiet_hours": "wake_up",
        "retries": {"attempts": 5, "base_seconds": 0.5, "cap_seconds": 60.0},
        "caps": [{"count": 1, "seconds": 3600}, {"count": 3, "seconds": 86400}],
        "excess": "hold",
        "dedupe_seconds": 600,
    }
    assert (await api.put("/v1/categories/*", said)).json() == {"name": "*"} | said
    assert (await api.get("/v1/categories")).json()["categories"] == [{"name": "*"} | said]
    assert (await api.delete("/v1/categories/*")).status == 204
    expect_problem(await api.delete("/v1/categories/*"), 404, "not_found")


async def test_suppressions(api: Api) -> None:
    added = await api.post("/v1/suppressions", {"channel": "sms", "address": "+49 30 901820", "reason": "bounced"})
    assert added.status == 201
    assert added.json()["address"] == "+4930901820"
    for number in range(4):
        await api.post("/v1/suppressions", {"channel": "email", "address": f"u{number}@example.com"})
    seen: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        page = (await api.get(f"/v1/suppressions?limit=2{cursor and '&cursor=' + cursor}")).json()
        seen += [entry["address"] for entry in page["suppressions"]]
        cursor = page["next"]
    assert sorted(seen) == ["+4930901820", *(f"u{number}@example.com" for number in range(4))]
    assert (await api.delete("/v1/suppressions/email/u0@EXAMPLE.com")).status == 204
    assert (await api.delete("/v1/suppressions/sms/%2B4930901820")).status == 204
    expect_problem(await api.delete("/v1/suppressions/email/u0@example.com"), 404, "not_found")
    expect_problem(await api.delete("/v1/suppressions/email/nonsense"), 404, "not_found")
    expect_problem(await api.delete("/v1/suppressions/fax/u1@example.com"), 400, "invalid_parameter")


async def test_a_device_token_with_slashes_can_be_taken_off_the_list(api: Api) -> None:
    token = "projects/x:APA91b/tok?en"
    await api.post("/v1/suppressions", {"channel": "push", "address": token})
    assert (await api.delete("/v1/suppressions/push/projects/x:APA91b%2Ftok%3Fen")).status == 204


BAD_SUPPRESSIONS: list[tuple[dict[str, str], str, str]] = [
    ({"channel": "email", "address": "nobody"}, "invalid_email", "$.address"),
    ({"channel": "inapp", "address": "demo"}, "no_such_channel", "$.channel"),
    ({"channel": "fax", "address": "1"}, "invalid_value", "$.channel"),
    ({"channel": "email", "address": "a@example.com", "reason": "NO WAY"}, "invalid_value", "$.reason"),
    ({"channel": "email"}, "missing_field", "$.address"),
]


async def test_a_bad_suppression(api: Api) -> None:
    for body, code, path in BAD_SUPPRESSIONS:
        assert expect_problem(await api.post("/v1/suppressions", body), 422, code)["path"] == path
