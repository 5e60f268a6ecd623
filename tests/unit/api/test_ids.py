"""Ids are the sender's own text: each names its own resource and no other, whatever characters it has."""

from __future__ import annotations

import asyncio
import unicodedata
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote, quote_from_bytes

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from support.api import Api, expect_problem, running
from tidings.api import paths
from tidings.api.calls import is_user_id
from tidings.api.problems import Refused

ODD = [
    "a/b",
    "a",
    "b",
    "oauth/google:1",
    "YWJj/Zg==",
    "/",
    "//",
    "a/",
    "/a",
    "a//b",
    "a%2Fb",
    "%2F",
    "%",
    "%%",
    "%25",
    "100%",
    "a?b=c",
    "?",
    "#",
    "a#b",
    "&",
    "a=b;c",
    "~",
    "a b",
    " a",
    "a ",
    " ",
    "+",
    "a+b",
    ":",
    "@",
    "...",
    "a/..",
    "../a",
    "a/./b",
    "inbox",
    "a/inbox",
    "demo/inbox",
    "demo/preferences",
    "demo/devices/one",
    "preferences",
    "count",
    "é",
    "e\u0301",
    "ß",
    "ſ",
    "İ",
    "👩‍🚀",
    "\u202ea",
    "\u200b",
    "\u0085",
    "\ufeff",
    "\uffff",
    "\U0010ffff",
    "安" * 200,
    "x" * 200,
    "'",
    '"',
    "\\",
    "{user_id}",
    "Batch",
    "batch ",
    "%62atch",
    "a\u2215b",
    "a\uff0fb",
    "null",
    "..%2F",
    "%2e%2e",
]
"""Ids that may be stored, all different in every spelling."""

REFUSED = ["", ".", "..", "batch", "x" * 201, "a\x00b", "a\nb", "a\x1fb", "a\x7fb", "\x01"]

ids = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=200).filter(is_user_id)
likely = st.text("ab/%2F.~+?#:é\u0301 ", min_size=1, max_size=8).filter(is_user_id)


@asynccontextmanager
async def raw(api: Api) -> AsyncIterator[Any]:
    """A client that sends the path unchanged: HTTP libraries resolve dots and re-encode."""

    async def ask(method: str, path: bytes, body: bytes = b"") -> tuple[int, bytes]:
        host, port = api.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        key = (await api.key()).encode()
        writer.write(
            b"%b %b HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %b\r\ncontent-type: application/json\r\n"
            b"content-length: %d\r\nconnection: close\r\n\r\n%b" % (method.encode(), path, key, len(body), body)
        )
        answer = await reader.read()
        writer.close()
        head, _, text = answer.partition(b"\r\n\r\n")
        return int(head.split()[1]), text

    yield ask


def below(id: str, *rest: str) -> str:
    return "/".join(["/v1/users", quote(id, safe=""), *rest])


async def expect_own_resource(api: Api, id: str) -> None:
    """A user with this id can be stored, read, changed below its path, and deleted, without effect on others."""
    stored = await api.put(below(id), {"name": "one"})
    assert (stored.status, stored.json()["user_id"]) == (200, id)
    assert (await api.get(below(id))).json()["user_id"] == id
    assert (await api.put(below(id, "preferences"), {"muted": True})).status == 200
    assert (await api.get(below(id, "preferences"))).json()["muted"]
    added = await api.post(below(id, "devices"), {"token": "a/b%2Fc:d"})
    assert added.json() == {"devices": ["a/b%2Fc:d"]}
    assert (await api.get(below(id, "inbox"))).json() == {"items": [], "next": None}
    assert (await api.get(below(id, "inbox", "count"))).json() == {"unread": 0}
    assert (await api.post(below(id, "inbox", "read"), {"all": True})).json() == {"changed": 0}
    listed = await api.get(f"/v1/notifications?user_id={quote(id, safe='')}")
    assert listed.json()["notifications"] == []
    assert (await api.delete(below(id, "devices", quote("a/b%2Fc:d", safe="")))).status == 204
    assert (await api.get(below(id))).json()["devices"] == []
    assert (await api.delete(below(id))).status == 204
    assert (await api.get(below(id))).status == 404


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[asyncio.AbstractEventLoop, Api]]:
    """One server for all examples."""
    loop = asyncio.new_event_loop()
    context = running()
    api = loop.run_until_complete(context.__aenter__())
    yield loop, api
    loop.run_until_complete(context.__aexit__(None, None, None))
    loop.close()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(id=ids | likely)
@example(id="a/b")
@example(id="%2F")
def test_any_id_names_its_own_resource(served: tuple[asyncio.AbstractEventLoop, Api], id: str) -> None:
    loop, api = served
    loop.run_until_complete(expect_own_resource(api, id))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(one=likely, other=likely)
def test_no_id_reaches_anothers(served: tuple[asyncio.AbstractEventLoop, Api], one: str, other: str) -> None:
    if one == other:
        return
    loop, api = served

    async def apart() -> None:
        await api.put(below(one), {"name": "one"})
        assert (await api.get(below(other))).status == 404
        assert (await api.delete(below(other))).status == 404
        await api.put(below(other), {"name": "other"})
        assert (await api.get(below(one))).json()["name"] == "one"
        assert (await api.delete(below(other))).status == 204
        assert (await api.delete(below(one))).status == 204

    loop.run_until_complete(apart())


async def test_odd_ids_live_beside_each_other(api: Api) -> None:
    stored = await api.post(
        "/v1/users/batch", {"users": [{"user_id": id, "name": f"n{n}"} for n, id in enumerate(ODD)]}
    )
    assert stored.json()["results"] == [{"user_id": id} for id in ODD]
    for number, id in enumerate(ODD):
        assert (await api.get(below(id))).json()["name"] == f"n{number}", id
        sent = await api.post("/v1/notifications", {"to": {"user_id": id}, "content": {"sms": {"text": "x"}}})
        assert sent.status == 202, id
    for id in ODD:
        assert (await api.delete(below(id))).status == 204, id
    assert (await api.get("/v1/users/demo")).status == 200


async def test_composed_and_decomposed_are_two(api: Api) -> None:
    composed, other = "Zoë", unicodedata.normalize("NFD", "Zoë")
    await api.put(below(composed), {"name": "composed"})
    assert (await api.get(below(other))).status == 404


@pytest.mark.parametrize("id", REFUSED)
async def test_what_no_path_can_hold_is_refused_by_the_batch_too(api: Api, id: str) -> None:
    async with raw(api) as ask:
        status, text = await ask("PUT", b"/v1/users/" + quote(id, safe="").encode(), b"{}")
        escaped = b"".join(b"%%%02X" % octet for octet in id.encode())
        second, _ = await ask("PUT", b"/v1/users/" + escaped, b"{}")
    assert status in {400, 404, 405}, text
    assert second in {400, 404, 405}
    answer = await api.post("/v1/users/batch", {"users": [{"user_id": id}]})
    if answer.status == 200:
        [result] = answer.json()["results"]
        assert result["error"]["path"] == "$.users[0].user_id"
        if id in {".", "..", "x" * 201, "a\nb"}:
            assert result["error"]["detail"].encode() in text, "one sentence for both"
    else:
        expect_problem(answer, 422, "nul_character")


async def test_an_id_reaches_no_other_route(api: Api) -> None:
    """Each of these paths names a user, whose id looks like something else."""
    async with raw(api) as ask:
        for path in (
            "demo%2Finbox",
            "demo%2Fpreferences",
            "demo%2Finbox%2Fcount",
            "demo%2f",
            "%2Fdemo",
            "demo%2F..%2Fdemo",
        ):
            assert (await ask("GET", b"/v1/users/" + path.encode()))[0] == 404, path
        assert (await ask("GET", b"/v1/users/%64emo"))[0] == 200, "an escape that is not needed changes nothing"
        assert (await ask("POST", b"/v1/notifications%2Fbatch", b'{"notifications":[]}'))[0] == 404
        assert (await ask("POST", b"/v1%2Fnotifications", b"{}"))[0] == 404
        assert (await ask("GET", b"/v1/users/demo/../demo"))[0] == 404, "dots are no directions here"
        assert (await ask("POST", b"/v1/users%2Fbatch", b"{}"))[0] in {404, 405}


@pytest.mark.parametrize(
    "path",
    [b"/v1/users/%ff", b"/v1/users/%C3", b"/v1/users/%", b"/v1/users/%2", b"/v1/users/%zz", b"/v1/users/%ed%a0%80",
     b"/v1/users/a#b", b"/v1/users/a#", b"/v1/notifications?user_id=%ff", b"/v1/notifications?user_id=%C3%28",
     b"/v1/users/%c0%af"],
)  # fmt: skip
async def test_what_is_no_text_names_nobody(api: Api, path: bytes) -> None:
    await api.put(below("\ufffd"), {})
    async with raw(api) as ask:
        status, text = await ask("GET", path)
    assert status == 400, text
    assert b"malformed_" in text


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=6), min_size=1, max_size=4))
def test_a_path_is_split_before_it_is_decoded(names: list[str]) -> None:
    matched = paths.path_for_matching("/".join(paths.segment(name) for name in names).encode())
    parts = matched.split("/")
    assert len(parts) == len(names)
    assert list(paths.decoded_names(dict(enumerate(parts))).values()) == names  # type: ignore[arg-type]


@given(st.binary(max_size=12))
def test_octets_are_text_or_refused(octets: bytes) -> None:
    written = quote_from_bytes(octets, safe="").encode()
    try:
        text = octets.decode()
    except UnicodeDecodeError:
        with pytest.raises(Refused):
            paths.path_for_matching(written)
        with pytest.raises(Refused):
            paths.check_query(b"a=" + written)
    else:
        assert paths.decoded_names({"name": paths.path_for_matching(written)}) == {"name": text}


async def test_other_names_in_paths(api: Api) -> None:
    address = "a/b%2Fc+d@example.com"
    body = {"channel": "email", "address": address, "reason": "bounced"}
    assert (await api.post("/v1/suppressions", body)).status == 201
    assert (await api.delete(f"/v1/suppressions/email/{quote('a/b', safe='')}")).status == 404
    assert (await api.delete(f"/v1/suppressions/email/{quote(address, safe='')}")).status == 204
    for path in ("/v1/categories/a%2Fb", "/v1/templates/order%2Fversions", "/v1/notifications/ntf%2F1/cancel"):
        assert (await api.get(path)).status in {400, 404, 405}, path
