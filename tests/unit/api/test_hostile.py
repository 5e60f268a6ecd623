"""Hostile input: each gets a clear 4xx, never a 500; nothing is stored, and the server goes on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest

from support.api import Api, World, expect_problem, running
from tidings.api.samples import ORDER
from tidings.model.errors import Unavailable
from tidings.ports.queue import Item

SMS: dict[str, Any] = {"to": {"user_id": "demo"}, "content": {"sms": {"text": "hello"}}}
DEEP = b"[" * 1000 + b"]" * 1000
DEEP_OBJECT = b'{"a":' * 1000 + b"1" + b"}" * 1000
LONE_SURROGATE = b'{"a": "\\ud800"}'
NUL = b'{"a": "\\u0000"}'

NO_JSON = {
    "empty": b"",
    "spaces": b"   ",
    "half": b'{"to": {"user_id": "demo"',
    "text": b"hello",
    "two values": b"{} {}",
    "trailing comma": b'{"to": {},}',
    "single quotes": b"{'to': 1}",
    "NaN": b'{"a": NaN}',
    "Infinity": b'{"a": -Infinity}',
    "control character": b'{"a": "x\x00y"}',
    "not UTF-8": b'{"a": "\xff\xfe"}',
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "byte order mark": b"\xef\xbb\xbf{}",
    "encoded surrogate": b'{"a": "\xed\xa0\x80"}',
    "lone surrogate": LONE_SURROGATE,
    "reversed surrogates": b'{"a": "\\udc00\\ud800"}',
    "unfinished escape": b'{"a": "\\u12"}',
    "unclosed string of quotes": b"[" * 40 + b'"' + b'\\"' * 40_000,
    "very deep": DEEP * 20,
    "deep": DEEP,
    "deep object": DEEP_OBJECT,
    "endless deep": b"[" * 90_000,
    "gzip": b"\x1f\x8b\x08\x00\x00\x00\x00\x00",
}

POSTING = ("/v1/notifications", "/v1/notifications/batch", "/v1/users/batch", "/v1/suppressions")


@pytest.mark.parametrize("path", POSTING)
async def test_bodies_that_are_no_json_are_refused(api: Api, path: str) -> None:
    for name, body in NO_JSON.items():
        answer = await api.post(path, body)
        refusal = answer.json()
        assert answer.status in {400, 422}, (name, answer)
        # A fault before the point where the text breaks off may be reported first.
        assert refusal["code"] in {"malformed_json", "too_deep", "missing_field", "unknown_field", "wrong_type"}, (
            name,
            refusal,
        )
        assert refusal["path"].startswith("$"), (name, refusal)
    assert await api.waiting() == 0


def notification(**changes: Any) -> bytes:
    return json.dumps({**SMS, **changes}).encode()


def raw(field: str, value: bytes) -> bytes:
    return notification(**{field: "HERE"}).replace(b'"HERE"', value)


BAD_NOTIFICATIONS: list[tuple[str, bytes, str]] = [
    ("null", b"null", "$"),
    ("array", b"[]", "$"),
    ("number", b"7", "$"),
    ("string", b'"x"', "$"),
    ("empty object", b"{}", "$.to"),
    ("to is text", notification(to="demo"), "$.to"),
    ("to is empty", notification(to={}), "$.to"),
    ("to has an unknown field", notification(to={"user": "demo"}), "$.to.user"),
    ("user id is a number", notification(to={"user_id": 7}), "$.to.user_id"),
    ("user id is empty", notification(to={"user_id": ""}), "$.to.user_id"),
    ("user id has a line break", notification(to={"user_id": "a\nb"}), "$.to.user_id"),
    ("user id has a NUL", notification(to={"user_id": "a\0b"}), "$.to.user_id"),
    ("user id is endless", notification(to={"user_id": "x" * 10_000}), "$.to.user_id"),
    ("both kinds of recipient", notification(to={"user_id": "demo", "email": "a@example.com"}), "$.to"),
    ("email", notification(to={"email": "nobody"}), "$.to.email"),
    ("header injection in email", notification(to={"email": "a@example.com\r\nBcc: b@example.com"}), "$.to.email"),
    ("phone", notification(to={"phone": "12"}), "$.to.phone"),
    ("locale", notification(to={"email": "a@example.com", "locale": "no such"}), "$.to.locale"),
    ("timezone", notification(to={"email": "a@example.com", "timezone": "Mars/Base"}), "$.to.timezone"),
    ("unknown field", notification(subject="x"), "$.subject"),
    ("both kinds of content", notification(template="order-confirmation"), "$"),
    ("no content", b'{"to": {"user_id": "demo"}}', "$"),
    ("content for nothing", notification(content={}), "$.content"),
    ("content for an unknown channel", notification(content={"fax": {"text": "x"}}), "$.content.fax"),
    (
        "header injection in subject",
        notification(content={"email": {"subject": "a\r\nBcc: b@example.com", "text": "x"}}),
        "$.content.email.subject",
    ),
    ("text is a number", notification(content={"sms": {"text": 7}}), "$.content.sms.text"),
    ("text has a NUL", notification(content={"sms": {"text": "a\0b"}}), "$.content.sms.text"),
    ("channel", notification(channels=["fax"]), "$.channels[0]"),
    ("channel without content", notification(channels=["sms", "email"]), "$.channels[1]"),
    ("priority", notification(priority="urgent"), "$.priority"),
    ("strategy", notification(strategy="some"), "$.strategy"),
    ("category", notification(category="a b"), "$.category"),
    ("send_at is no time", notification(send_at="tomorrow"), "$.send_at"),
    ("send_at is a number", notification(send_at=1e300), "$.send_at"),
    ("send_at without offset", notification(send_at="2030-01-01T00:00:00"), "$.send_at"),
    ("send_at far away", notification(send_at="9999-12-31T23:59:59Z"), "$.send_at"),
    ("expires_at is past", notification(expires_at="2020-01-01T00:00:00Z"), "$.expires_at"),
    ("data is an array", notification(data=[]), "$.data"),
    ("data is text", notification(data="x"), "$.data"),
    ("data has a NUL", raw("data", NUL), "$.data"),
    ("metadata has a NUL in a key", raw("metadata", b'{"\\u0000": 1}'), "$.metadata"),
    ("data is deep", raw("data", b'{"a":' * 100 + b"1" + b"}" * 100), "$.data"),
    ("data has a number out of range", raw("data", b'{"a": 1e999}'), "$.data"),
    ("data has an endless number", raw("data", b'{"a": ' + b"9" * 5000 + b"}"), "$.data"),
    ("data has a lone surrogate", raw("data", LONE_SURROGATE), "$"),
    ("data is not UTF-8", raw("data", b'{"a": "\xff"}'), "$"),
    ("unknown template", b'{"to": {"user_id": "demo"}, "template": "nothing"}', "$.template"),
    ("template with a NUL", b'{"to": {"user_id": "demo"}, "template": "a\\u0000b"}', "$.template"),
    ("missing variables", json.dumps({**ORDER, "data": {"name": "Ada"}}).encode(), "$.data.order"),
]


async def test_bad_notifications_are_refused_by_place_alone_and_in_a_batch(api: Api) -> None:
    wrong: list[object] = []
    for name, body, path in BAD_NOTIFICATIONS:
        answer = await api.post("/v1/notifications", body)
        refusal = answer.json()
        if not 400 <= answer.status < 500 or not str(refusal.get("path", "")).startswith(path):
            wrong.append((name, answer.status, refusal))
        batch = await api.post("/v1/notifications/batch", b'{"notifications": [' + notification() + b"," + body + b"]}")
        if batch.status == 202:
            good, bad = batch.json()["results"]
            if "id" not in good or "error" not in bad or "$.notifications[1]" not in bad["error"]["path"]:
                wrong.append((name, "batch", batch.json()))
        elif not 400 <= batch.status < 500:
            wrong.append((name, "batch", batch.status, batch.json()))
    assert wrong == []


async def test_a_repeated_name_and_a_huge_integer_are_accepted(api: Api) -> None:
    body = raw("data", b'{"a": 1, "a": 2, "big": 123456789012345678901234567890}')
    assert (await api.post("/v1/notifications", body)).status == 202


async def test_resources_refuse_the_same(api: Api) -> None:
    for body in (NUL, b'{"attributes": {"a": "\\u0000"}}', b'{"name": "\\u0000"}'):
        expect_problem(await api.put("/v1/users/ada", body), 422, "nul_character")
    deep = b'{"attributes": {"a": ' + b"[" * 100 + b"]" * 100 + b"}}"
    expect_problem(await api.put("/v1/users/ada", deep), 422, "too_deep")
    assert (await api.put("/v1/users/ada", b'{"attributes": {"a": "\\\\u0000 is text"}}')).status == 200
    assert (await api.put("/v1/users/bo", b'{"attributes": {"a": 123456789012345678901234567890}}')).status == 200
    assert (await api.get("/v1/users/bo")).json()["attributes"] == {"a": 123456789012345678901234567890}


@pytest.mark.parametrize(
    "path",
    [
        "/v1/users/a%00b",
        "/v1/users/%00",
        "/v1/notifications?user_id=a%00b",
        "/v1/users/a%00b/inbox",
        "/v1/templates/a%00",
    ],
)
async def test_nul_in_the_url(api: Api, path: str) -> None:
    expect_problem(await api.get(path), 400, "nul_character")


async def test_odd_urls(api: Api) -> None:
    for path in ("/v1/users/%FF%FE", "/v1/users/" + "x" * 5000, "/v1/users/..%2F..%2Fetc%2Fpasswd", "/v1/users/%0A"):
        assert (await api.get(path)).status in {400, 404}, path
    for path in ("/", "/v1", "/v1/", "/v2/notifications", "/docs/../etc/passwd", "/docs/core.py", "/v1/notifications/"):
        expect_problem(await api.get(path), 404, "not_found")


CONTENT_TYPES = [
    "text/plain",
    "application/x-www-form-urlencoded",
    "multipart/form-data",
    "application/xml",
    "json",
    "\xff",
]


@pytest.mark.parametrize("path", ["/v1/notifications", "/v1/notifications/batch", "/v1/users/batch"])
async def test_other_content_types_are_refused(api: Api, path: str) -> None:
    for content_type in CONTENT_TYPES:
        answer = await api.post(path, json.dumps(SMS).encode(), headers={"Content-Type": content_type})
        expect_problem(answer, 415, "unsupported_media_type")
    answer = await api.post(path, SMS, headers={"Content-Encoding": "gzip"})
    expect_problem(answer, 415, "unsupported_content_encoding")


async def test_json_by_other_media_types_is_accepted(api: Api) -> None:
    for name in ("application/json; charset=utf-8", "Application/JSON", "application/vnd.api+json"):
        assert (await api.post("/v1/notifications", SMS, headers={"Content-Type": name})).status == 202
        answer = await api.put("/v1/users/ada", {"locale": "de"}, headers={"Content-Type": name})
        assert answer.json()["locale"] == "de"


async def test_json_without_a_content_type_is_accepted(api: Api) -> None:
    for method, path, body in (
        ("POST", "/v1/notifications", notification()),
        ("PUT", "/v1/users/ada", b'{"locale": "de"}'),
    ):
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {await api.key()}\r\nConnection: close\r\n"
        )
        answer = await speak(api, [head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body])
        assert answer.startswith((b"HTTP/1.1 202", b"HTTP/1.1 200")), answer


async def test_bad_idempotency_keys(api: Api) -> None:
    for key in ("", " ", "a b", "x" * 256, "\u00fc"):
        refusal = expect_problem(
            await api.post("/v1/notifications", SMS, headers={"Idempotency-Key": key}), 400, "invalid_idempotency_key"
        )
        assert refusal["parameter"] == "Idempotency-Key"
    assert await api.waiting() == 0


async def test_only_sane_request_ids_are_used(api: Api) -> None:
    assert (await api.get("/healthz", headers={"X-Request-Id": "abc-123"})).headers["x-request-id"] == "abc-123"
    refusal = expect_problem(await api.get("/v1/nothing", headers={"X-Request-Id": "abc-123"}), 404, "not_found")
    assert refusal["request_id"] == "abc-123"
    seen = set()
    for bad in ("", "a b", "<script>", "x" * 129, "\u00fc"):
        for path in ("/healthz", "/v1/nothing"):
            seen.add((await api.get(path, headers={"X-Request-Id": bad})).headers["x-request-id"])
    assert len(seen) == 10
    assert all(id.startswith("req_") for id in seen)


async def test_methods_that_a_path_does_not_take(api: Api) -> None:
    for method, path, allowed in [
        ("DELETE", "/v1/notifications", "GET, POST"),
        ("PUT", "/v1/notifications/batch", "POST"),
        ("POST", "/v1/users/demo", "DELETE, GET, PUT"),
        ("PATCH", "/v1/users/demo/preferences", "GET, PUT"),
        ("POST", "/healthz", "GET"),
        ("POST", "/docs", "GET"),
    ]:
        answer = await api.call(method, path)
        expect_problem(answer, 405, "method_not_allowed")
        assert answer.headers["allow"] == allowed, path


async def speak(api: Api, chunks: Sequence[bytes]) -> bytes:
    """Send the bytes; everything that the server answers until it closes the connection."""
    host, port = api.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        for chunk in chunks:
            writer.write(chunk)
            await writer.drain()
        return await reader.read()
    finally:
        writer.close()
        await writer.wait_closed()


async def head(api: Api, path: str, *lines: str) -> bytes:
    """The head of a POST with a valid key."""
    first = [f"POST {path} HTTP/1.1", "Host: x", f"Authorization: Bearer {await api.key()}"]
    return "\r\n".join([*first, "Content-Type: application/json", *lines, "", ""]).encode()


@pytest.mark.parametrize("path", ["/v1/notifications", "/v1/notifications/batch", "/v1/users/batch"])
async def test_ten_megabytes_are_refused_and_the_connection_lives(api: Api, path: str) -> None:
    body = json.dumps({**SMS, "data": {"a": "x" * 10_000_000}}).encode()
    for _ in range(2):
        refusal = expect_problem(await api.post(path, body), 413, "too_large")
        assert "connection" not in refusal
    assert (await api.post("/v1/notifications", SMS)).status == 202
    assert await api.waiting() == 1


@pytest.mark.parametrize(
    "path", ["/v1/notifications", "/v1/notifications/batch", "/v1/users/batch", "/v1/receipts/signer"]
)
async def test_ten_megabytes_in_chunks_without_a_length(api: Api, path: str) -> None:
    chunk = b"x" * 50_000
    chunks = [await head(api, path, "Transfer-Encoding: chunked", "Connection: close")]
    chunks += [b"%x\r\n" % len(chunk) + chunk + b"\r\n"] * 200 + [b"0\r\n\r\n"]
    answer = await speak(api, chunks)
    assert answer.startswith(b"HTTP/1.1 413")
    assert b'"code":"too_large"' in answer


async def test_odd_hosts(api: Api) -> None:
    for host in ("[", "a b", "x:99999999", "evil.example", ""):
        for path in ("/v1/nothing", "/v1/users/demo", "/healthz", "/docs", "/nothing"):
            lines = (
                f"GET {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {await api.key()}\r\nConnection: close"
            )
            answer = await speak(api, [f"{lines}\r\n\r\n".encode()])
            assert answer.startswith((b"HTTP/1.1 200", b"HTTP/1.1 40")), (host, path, answer)


async def test_a_client_that_asks_first_is_refused_before_sending(api: Api) -> None:
    for path in ("/v1/notifications", "/v1/users/batch"):
        answer = await speak(api, [await head(api, path, "Content-Length: 90000000", "Expect: 100-continue")])
        assert answer.startswith(b"HTTP/1.1 413")
        assert b"connection: close" in answer


async def test_a_content_length_that_is_impossibly_large_is_refused(api: Api) -> None:
    answer = await speak(api, [await head(api, "/v1/notifications", "Content-Length: " + "9" * 30)])
    assert answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 413"))


async def test_a_body_in_small_pieces_is_put_together(api: Api) -> None:
    body = notification()
    chunks = [await head(api, "/v1/notifications", f"Content-Length: {len(body)}", "Connection: close")]
    answer = await speak(api, chunks + [body[i : i + 7] for i in range(0, len(body), 7)])
    assert answer.startswith(b"HTTP/1.1 202")


async def test_a_client_that_leaves_before_its_request_is_complete_has_no_effect(
    api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    host, port = api.url.removeprefix("http://").split(":")
    for path in ("/v1/notifications", "/v1/users/batch"):
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(await head(api, path, "Content-Length: 1000") + b'{"to": ')
        await writer.drain()
        writer.close()
        await writer.wait_closed()
    assert (await api.post("/v1/notifications", SMS)).status == 202
    assert await api.waiting() == 1
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_an_unavailable_store_is_503_with_the_time_to_wait(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(*_: object, **__: object) -> None:
        raise Unavailable("the queue does not answer", retry_after_s=2.4)

    monkeypatch.setattr(api.world.queue, "put", away)
    monkeypatch.setattr(api.world.store.users, "get", away)
    for answer in (await api.post("/v1/notifications", SMS), await api.get("/v1/users/demo")):
        expect_problem(answer, 503, "unavailable")
        assert answer.headers["retry-after"] == "2"


async def test_an_unforeseen_error_is_500_with_a_request_id_and_one_log_line(monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[dict[str, Any]] = []
    monkeypatch.setattr("tidings.api.front._log", _Log(logged))

    async def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("secret detail")

    async with running(World()) as api:
        monkeypatch.setattr(api.world.queue, "put", broken)
        monkeypatch.setattr(api.world.store.users, "get", broken)
        for method, path, body in (("POST", "/v1/notifications", SMS), ("GET", "/v1/users/demo", None)):
            answer = await api.call(method, path, body)
            refusal = expect_problem(answer, 500, "internal_error")
            assert "secret" not in answer.body.decode()
            (line,) = logged
            assert line["request_id"] == refusal["request_id"]
            assert isinstance(line["exc_info"], ZeroDivisionError)
            logged.clear()


class _Log:
    def __init__(self, lines: list[dict[str, Any]]) -> None:
        self._lines = lines

    def error(self, event: str, **fields: Any) -> None:
        self._lines.append({"event": event, **fields})


async def test_refused_requests_never_reach_the_queue(api: Api) -> None:
    async def refuse(items: Sequence[Item]) -> None:
        raise AssertionError(items)

    api.world.queue.put = refuse  # type: ignore[method-assign]
    for _, body, _ in BAD_NOTIFICATIONS[:10]:
        assert (await api.post("/v1/notifications", body)).status < 500
