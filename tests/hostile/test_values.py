"""Hostile values against every operation that takes a body: each gets a plain 4xx, or is stored literally."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from support.api import Api, expect_problem, running
from tidings.api.samples import DEMO_USER
from tidings.model.errors import Invalid, TemplateError
from tidings.model.notification import Content, PushContent
from tidings.model.template import TemplateVersion
from tidings.model.vocabulary import Channel
from tidings.policy import addresses
from tidings.policy.links import is_safe
from tidings.templating.compile import compile_version

SOURCES = Path(__file__).resolve().parents[2] / "src"


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with running() as api:
        yield api


async def taking(api: Api) -> list[tuple[str, str]]:
    """Method and path of every operation with a JSON body."""
    doc = (await api.get("/openapi.json", key=None)).json()
    operations = []
    for template, item in doc["paths"].items():
        for method, operation in item.items():
            if "application/json" in operation.get("requestBody", {}).get("content", {}):
                path = template
                for parameter in operation.get("parameters", ()):
                    examples = parameter.get("examples") or parameter["schema"].get("examples") or ["x"]
                    path = path.replace(f"{{{parameter['name']}}}", str(examples[0]))
                operations.append((method.upper(), path))
    return operations


NO_JSON: dict[str, bytes] = {
    "half": b'{"a": ',
    "text": b"hello",
    "form": b"a=1&b=2",
    "two values": b"{} {}",
    "trailing comma": b'{"a": 1,}',
    "comment": b'{/* */"a": 1}',
    "single quotes": b"{'a': 1}",
    "bare name": b"{a: 1}",
    "NaN": b'{"a": NaN}',
    "Infinity": b'{"a": Infinity}',
    "minus Infinity": b"[-Infinity]",
    "hexadecimal": b'{"a": 0x1F}',
    "leading zero": b'{"a": 012}',
    "leading plus": b'{"a": +1}',
    "control character": b'{"a": "\x01"}',
    "raw line break": b'{"a": "\n"}',
    "NUL after the end": b"{}\x00",
    "not UTF-8": b'{"a": "\xff\xfe"}',
    "overlong UTF-8": b'{"a": "\xc0\xaf"}',
    "cut UTF-8": b'{"a": "\xe2\x82"}',
    "beyond Unicode": b'{"a": "\xf4\x90\x80\x80"}',
    "encoded surrogate": b'{"a": "\xed\xa0\x80"}',
    "lone surrogate": b'{"a": "\\ud800"}',
    "lone surrogate as a name": b'{"\\udfff": 1}',
    "reversed surrogates": b'{"a": "\\udc00\\ud800"}',
    "byte order mark": b"\xef\xbb\xbf{}",
    "UTF-16": '{"a": 1}'.encode("utf-16-le"),
    "UTF-32": '{"a": 1}'.encode("utf-32"),
    "gzip": b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03",
    "deep": b"[" * 40_000 + b"]" * 40_000,
    "deep object": b'{"a":' * 5_000 + b"1" + b"}" * 5_000,
    "deep and open": b'[{"a":' * 10_000,
    "quotes without end": b'{"a": "' + b'\\"' * 40_000,
}

WRONG_SHAPE: dict[str, bytes] = {
    "null": b"null",
    "number": b"7",
    "text": b'"x"',
    "array": b"[]",
    "many keys": json.dumps({f"k{number}": number for number in range(5_000)}).encode(),
    "one key over and over": b'{"a": 1' + b', "a": 1' * 10_000 + b"}",
    "a long name": b'{"' + b"x" * 90_000 + b'": 1}',
    "prototype": b'{"__proto__": {"admin": true}, "constructor": {"prototype": {}}, "__class__": 1}',
    "an endless number": b'{"a": ' + b"9" * 50_000 + b"}",
    "a number out of range": b'{"a": 1e99999}',
    "a tiny number": b'{"a": 1e-99999}',
}


async def test_no_operation_takes_what_is_no_json(api: Api) -> None:
    operations = await taking(api)
    assert len(operations) > 9
    for method, path in operations:
        for name, body in NO_JSON.items():
            answer = await api.call(method, path, body)
            assert answer.status in {400, 422}, (method, path, name, answer)
            # A fault before the point where the text breaks off may be reported first.
            shown = answer.json()
            shapes = {"malformed_json", "too_deep", "missing_field", "unknown_field", "wrong_type"}
            assert shown["code"] in shapes, (method, path, name, shown)
            assert len(answer.body) < 1_000, (method, path, name)
    assert await api.waiting() == 0


async def test_no_operation_takes_another_shape(api: Api) -> None:
    for method, path in await taking(api):
        for name, body in WRONG_SHAPE.items():
            answer = await api.call(method, path, body)
            assert answer.status in {400, 422}, (method, path, name, answer)
            assert answer.headers["content-type"] == "application/problem+json"
    assert await api.waiting() == 0


async def test_a_whole_number_may_be_written_with_a_point(api: Api) -> None:
    answer = await api.put("/v1/categories/news", b'{"caps": [{"count": 2.0, "seconds": 6e1}]}')
    assert answer.status == 200
    assert answer.json()["caps"] == [{"count": 2, "seconds": 60}]
    refusal = expect_problem(
        await api.put("/v1/categories/news", b'{"caps": [{"count": 2.5, "seconds": 60}]}'), 422, "wrong_type"
    )
    assert refusal["path"] == "$.caps[0].count"
    expect_problem(
        await api.put("/v1/categories/news", b'{"caps": [{"count": 1e300, "seconds": 60}]}'), 422, "invalid_value"
    )


HEADERS = ["a\tb", "a b", "é", "\u2028", "x" * 300, "%0d%0aX-Evil: 1", "{{7*7}}", "<script>", '"x"', ""]


async def test_values_of_headers_never_come_back_as_headers(api: Api) -> None:
    body = {"to": {"user_id": DEMO_USER}, "content": {"sms": {"text": "x"}}}
    for value in HEADERS:
        raw = value.encode().decode("latin-1")
        for name in (
            "Idempotency-Key",
            "X-Request-Id",
            "Authorization",
            "Content-Type",
            "Traceparent",
            "Host",
            "Origin",
        ):
            answer = await api.post("/v1/notifications", body, headers={name: raw})
            assert answer.status < 500, (name, value)
            assert "x-evil" not in answer.headers
            assert re.fullmatch(r"[A-Za-z0-9._~-]{1,128}", answer.headers["x-request-id"])
            for header, content in answer.headers.items():
                assert value not in content or not value, (name, header, content)


ONE_LINE = ["a\nb", "a\r\nBcc: eve@example.com", "a\rb", "a\0b", "a\x0bb", "a\x1bb"]


@pytest.mark.parametrize("text", ONE_LINE)
async def test_what_becomes_a_header_is_one_line(api: Api, text: str) -> None:
    for place, value in (
        ("to.email", f"{text}@example.com"),
        ("to.email", f"ada@{text}.example"),
        ("to.devices", [text]),
        ("to.user_id", text),
        ("content.email.subject", text),
        ("content.push.title", text),
        ("content.inapp.link", text),
        ("category", text),
        ("template", text),
    ):
        outer, _, inner = place.partition(".")
        body: dict[str, Any] = {"to": {"email": "ada@example.com"}}
        if place.startswith("content"):
            channel, field = inner.split(".")
            other = {"push": {"body": "x"}, "email": {"text": "x"}, "inapp": {"title": "x", "body": "x"}}[channel]
            body["content"] = {channel: {**other, field: value}}
        elif outer == "to":
            body |= {"to": {inner: value}, "content": {"sms": {"text": "x"}}}
        else:
            body |= {outer: value} if outer == "template" else {outer: value, "content": {"sms": {"text": "x"}}}
        answer = await api.post("/v1/notifications", body)
        assert answer.status == 422, (place, answer)
        assert answer.json()["path"].startswith(f"$.{place}"), (place, answer.json())
    expect_problem(
        await api.put("/v1/users/ada", {"name": text}), 422, "nul_character" if "\0" in text else "invalid_name"
    )
    assert await api.waiting() == 0


ACTIVE = ["javascript:alert(1)", "JavaScript:x", "  javascript:x", "vbscript:x", "data:text/html,<script>"]
HARMLESS = ["https://example.com/a?b=javascript:x", "/orders/7", "shop://orders/7", "mailto:ada@example.com", "a b:c"]


async def test_a_link_leads_somewhere_and_runs_nothing(api: Api) -> None:
    def body(link: str) -> dict[str, Any]:
        return {"to": {"user_id": DEMO_USER}, "content": {"inapp": {"title": "x", "body": "x", "link": link}}}

    for link in ACTIVE:
        refusal = expect_problem(await api.post("/v1/notifications", body(link)), 422, "unsafe_link")
        assert refusal["path"] == "$.content.inapp.link"
    for link in HARMLESS:
        assert is_safe(link)
        assert (await api.post("/v1/notifications", body(link))).status == 202


def test_a_link_out_of_a_template_runs_nothing_either() -> None:
    def version(link: str) -> TemplateVersion:
        return TemplateVersion("t", 1, {"en": Content(push=PushContent("x", "x", link))})

    with pytest.raises(TemplateError, match="lead somewhere"):
        compile_version(version("javascript:x"))
    compiled = compile_version(version("{{ url }}"))
    for link in [*ACTIVE, "java\nscript:x".replace("\n", "")]:
        with pytest.raises(TemplateError, match="lead somewhere"):
            compiled.render(Channel.PUSH, "en", None, {"url": link})
    for link in [*HARMLESS, "java\nscript:x"]:
        compiled.render(Channel.PUSH, "en", None, {"url": link})


NO_EMAILS = [
    '"ada lovelace"@example.com',
    '"ada"@example.com',
    "ada(comment)@example.com",
    "ada@example.com(comment)",
    "ada@[127.0.0.1]",
    "ada@[IPv6:2001:db8::1]",
    "ada@127.0.0.1",
    "ada@example.com.",
    "ada@.example.com",
    "ada@localhost",
    "<ada@example.com>",
    "mailto:ada@example.com",
    "ada@example.com?bcc=eve@example.com",
    "ada@example.com,eve@example.com",
    "ada@example.com;eve@example.com",
    "ada@example.com eve@example.com",
    "@relay.example:ada@example.com",
    "ada@@example.com",
    "ada@example.com@evil.example",
    "ada＠example.com",
    "ａｄａ@example.com",
    "ﬁnn@example.com",
    "𝐚da@example.com",
    "ada@☃.example",
    "ada@xn--example-.com",
    "ada@xn--a.com",
    "ada@-example.com",
    "ada@" + "a" * 64 + ".com",
    "ada@" + ".".join(["a"] * 130) + ".com",
]

NO_PHONES = [
    "12345",
    "+12345",
    "911",
    "+1 415 555 2671 ext. 5",
    "+1 415 555 2671 x5",
    "+14155552671;ext=5",
    "+14155552671,,5",
    "+14155552671#5",
    "tel:+14155552671",
    "whatsapp:+14155552671",
    "+14155552671;phone-context=evil.example",
    "+1-800-FLOWERS",
    "++4930901820",
    "+" + "9" * 200,
    "SHOP",
    "0049 30 901820",
]


PASTED = [
    ("ada\u200b@example.com", "ada@example.com"),
    ("ada\u202e@example.com", "ada@example.com"),
    ("\u200fada@example.com", "ada@example.com"),
    ("ada@exam\u200dple.com", "ada@example.com"),
    ("＋４９３０９０１８２０", "+4930901820"),
    ("+４９３０９０１８２０", "+4930901820"),
    ("+\u0664\u0669\u0663\u0660\u0669\u0660\u0661\u0668\u0662\u0660", "+4930901820"),
    ("\u202a+4930901820\u202c", "+4930901820"),
    ("\u200f+4930901820", "+4930901820"),
    ("+4930901820\u200b", "+4930901820"),
    ("+4930901820\r\n", "+4930901820"),
]


@pytest.mark.parametrize(("text", "form"), PASTED)
def test_what_nobody_sees_is_no_part_of_an_address(text: str, form: str) -> None:
    check = addresses.email if "@" in text else addresses.phone
    assert check(text) == form


@pytest.mark.parametrize("text", NO_EMAILS)
def test_what_is_no_email_address_here(text: str) -> None:
    with pytest.raises(Invalid) as refused:
        addresses.email(text)
    assert refused.value.code == "invalid_email"


@pytest.mark.parametrize("text", NO_PHONES)
def test_what_is_no_phone_number_here(text: str) -> None:
    with pytest.raises(Invalid) as refused:
        addresses.phone(text)
    assert refused.value.code == "invalid_phone"


def test_nothing_of_ours_writes_csv() -> None:
    """A CSV cell that begins with = + - @ runs in a spreadsheet. A new export must escape it, and be tested here."""
    writing = re.compile(r"^\s*(import|from) csv\b|text/csv|\.csv\b", re.MULTILINE)
    # The archiving writes temporary CSV files, which no person sees.
    permitted = {SOURCES / "tidings" / "backends" / name for name in ("postgres/archiving.py", "memory/days.py")}
    csv_writers = {path for path in SOURCES.rglob("*.py") if writing.search(path.read_text(encoding="utf-8"))}
    assert csv_writers == permitted
