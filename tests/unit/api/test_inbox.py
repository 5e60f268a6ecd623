from __future__ import annotations

from uuid import UUID

from support.api import TENANT, Api, expect_problem
from tidings.model.history import InboxItem
from tidings.model.ids import DELIVERY_PREFIX, to_text

INBOX = "/v1/users/demo/inbox"


async def fill(api: Api, count: int) -> list[str]:
    ids = [UUID(int=(1_700_000_000_000 + n << 80) | (7 << 76) | (2 << 62) | 3) for n in range(count)]
    items = [InboxItem(id, "demo", f"title {n}", "body", created_at=1_700_000_000_000 + n) for n, id in enumerate(ids)]
    await api.world.store.inbox.add(TENANT, items)
    return [to_text(DELIVERY_PREFIX, id) for id in ids]


async def test_it_lists_newest_first_by_cursor(api: Api) -> None:
    assert (await api.get(INBOX)).json() == {"items": [], "next": None}
    ids = await fill(api, 5)
    seen: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        page = (await api.get(f"{INBOX}?limit=2{cursor and '&cursor=' + cursor}")).json()
        seen += [item["id"] for item in page["items"]]
        cursor = page["next"]
    assert seen == ids[::-1]
    first = (await api.get(f"{INBOX}?limit=1")).json()
    assert first["items"][0] == {
        "id": ids[4],
        "title": "title 4",
        "body": "body",
        "link": None,
        "category": "",
        "created_at": "2023-11-14T22:13:20.004Z",
        "seen_at": None,
        "read_at": None,
        "archived_at": None,
    }
    await api.put("/v1/users/ada", {})
    expect_problem(await api.get(f"/v1/users/ada/inbox?cursor={first['next']}"), 400, "invalid_cursor")


async def test_items_are_marked_and_marks_are_taken_back(api: Api) -> None:
    ids = await fill(api, 4)
    assert (await api.get(f"{INBOX}/count")).json() == {"unread": 4}
    assert (await api.post(f"{INBOX}/seen", {"all": True})).json() == {"changed": 4}
    assert (await api.post(f"{INBOX}/read", {"ids": ids[:2]})).json() == {"changed": 2}
    assert (await api.get(f"{INBOX}/count")).json() == {"unread": 2}
    assert [item["id"] for item in (await api.get(f"{INBOX}?unread_only=true")).json()["items"]] == [ids[3], ids[2]]
    assert (await api.post(f"{INBOX}/archive", {"ids": [ids[3]]})).json() == {"changed": 1}
    assert [item["id"] for item in (await api.get(INBOX)).json()["items"]] == ids[2::-1]
    assert len((await api.get(f"{INBOX}?archived=true")).json()["items"]) == 4
    assert (await api.post(f"{INBOX}/unread", {"ids": ids[:1]})).json() == {"changed": 1}
    assert (await api.post(f"{INBOX}/unarchive", {"all": True})).json() == {"changed": 1}
    assert (await api.get(f"{INBOX}/count")).json() == {"unread": 3}


BAD_MARKS: list[tuple[dict[str, object], str, str]] = [
    ({}, "ids_or_all", "$"),
    ({"all": True, "ids": []}, "ids_or_all", "$"),
    ({"ids": ["x"]}, "invalid_id", "$.ids[0]"),
    ({"ids": ["ntf_01k00000000000000000000000"]}, "invalid_id", "$.ids[0]"),
    ({"ids": ["dlv_01k00000000000000000000000"] * 1001}, "too_many", "$.ids"),
    ({"ids": [1]}, "wrong_type", "$.ids[0]"),
    ({"all": "true"}, "wrong_type", "$.all"),
]


async def test_a_bad_mark(api: Api) -> None:
    for body, code, path in BAD_MARKS:
        assert expect_problem(await api.post(f"{INBOX}/read", body), 422, code)["path"] == path
    unknown = expect_problem(await api.post(f"{INBOX}/burn", {"all": True}), 400, "invalid_parameter")
    assert unknown["parameter"] == "mark"
    expect_problem(await api.post("/v1/users/nobody/inbox/read", {"all": True}), 404, "not_found")
