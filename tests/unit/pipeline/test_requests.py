"""Which requests are refused, with which code and path."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.flow import Flow
from support.queues import depth
from tidings.model.errors import Invalid
from tidings.model.notification import Content, SmsContent
from tidings.model.template import Variable
from tidings.pipeline.compose import requests

GOOD: dict[str, Any] = {"to": {"email": "a@example.com"}, "content": {"email": {"subject": "s", "text": "t"}}}


def with_(**changes: Any) -> bytes:
    return json.dumps(GOOD | changes).encode()


REFUSED: list[tuple[bytes, str, str]] = [
    (b"", "malformed_json", "$"),
    (b"{", "malformed_json", "$"),
    (b"[]", "wrong_type", "$"),
    (b"\xff\xfe{}", "malformed_json", "$"),
    (b"{}", "missing_field", "$.to"),
    (with_(to={}), "no_recipient", "$.to"),
    (with_(to=7), "wrong_type", "$.to"),
    (with_(to={"user_id": 7}), "wrong_type", "$.to.user_id"),
    (with_(to={"user_id": ""}), "invalid_name", "$.to.user_id"),
    (with_(to={"user_id": "a\nb"}), "invalid_name", "$.to.user_id"),
    (with_(to={"user_id": "x" * 201}), "invalid_name", "$.to.user_id"),
    (with_(to={"user_id": "a", "email": "a@example.com"}), "ambiguous_recipient", "$.to"),
    (with_(to={"email": "a@example.com\r\nBcc: b@example.com"}), "invalid_email", "$.to.email"),
    (with_(to={"email": "nobody"}), "invalid_email", "$.to.email"),
    (with_(to={"phone": "+1"}), "invalid_phone", "$.to.phone"),
    (with_(to={"email": "a@example.com", "timezone": "Mars/Base"}), "invalid_timezone", "$.to.timezone"),
    (with_(to={"email": "a@example.com", "locale": "??"}), "invalid_locale", "$.to.locale"),
    (with_(to={"devices": ["x"] * 51}), "too_many", "$.to.devices"),
    (with_(extra=1), "unknown_field", "$.extra"),
    (with_(content={"fax": {"text": "t"}}), "unknown_field", "$.content.fax"),
    (with_(content={}), "no_content", "$.content"),
    (with_(content={"email": {"subject": "s"}}), "missing_content", "$.content.email"),
    (with_(content={"email": {"subject": "s\r\nBcc: x", "text": "t"}}), "control_character", "$.content.email.subject"),
    (with_(content={"sms": {"text": "a\0b"}}), "nul_character", "$.content.sms.text"),
    (with_(content={"sms": {"text": "  "}}), "empty", "$.content.sms.text"),
    (with_(content={"sms": {"text": "\u200b\u2060"}}), "empty", "$.content.sms.text"),
    (with_(content={"email": {"subject": " ", "text": "t"}}), "empty", "$.content.email.subject"),
    (with_(content={"sms": {"text": "x" * 2000}}), "too_long", "$.content.sms.text"),
    (with_(content={"push": {"title": "t", "body": "x" * 5000}}), "too_long", "$.content.push.body"),
    (with_(content={"push": {"title": "t", "body": "é" * 2100}}), "too_long", "$.content.push.body"),
    (with_(content={"email": {"subject": "x" * 999, "text": "t"}}), "too_long", "$.content.email.subject"),
    (with_(channels=[]), "no_channels", "$.channels"),
    (with_(channels=["fax"]), "no_such_channel", "$.channels[0]"),
    (with_(channels=["email", "sms"]), "no_such_channel", "$.channels[1]"),
    (with_(strategy="some"), "wrong_type", "$.strategy"),
    (with_(priority="urgent"), "wrong_type", "$.priority"),
    (with_(category="a b"), "invalid_name", "$.category"),
    (with_(send_at="tomorrow"), "invalid_time", "$.send_at"),
    (with_(send_at="2030-01-01T00:00:00"), "no_timezone", "$.send_at"),
    (with_(send_at="2999-01-01T00:00:00Z"), "too_far", "$.send_at"),
    (with_(expires_at="2001-01-01T00:00:00Z"), "already_expired", "$.expires_at"),
    (with_(send_at="9999-12-31T23:59:59-14:00"), "too_far", "$.send_at"),
    (with_(expires_at="0001-01-01T00:00:00+14:00"), "already_expired", "$.expires_at"),
    (with_(template="t"), "content_or_template", "$"),
    (with_(data=[1]), "wrong_type", "$.data"),
    (with_().replace(b'"a@example.com"}', b'"a@example.com"}, "data": {"a": "\xff"}'), "", ""),
    (with_(data={"a": "x\0"}), "nul_character", "$.data"),
    (with_(metadata="x"), "wrong_type", "$.metadata"),
    (with_(data={"a": "x" * 300_000}), "too_large", "$"),
    (with_(content=None, template="a\0b"), "invalid_name", "$.template"),
    (with_(content=None, template="nope"), "unknown_template", "$.template"),
    (with_(content=None, template="hello"), "missing_variables", "$.data.name"),
    (with_(content=None, template="hello", data={"name": None}), "missing_variables", "$.data.name"),
    (with_(content=None, template="hello", data={"name": ["Ada"]}), "not_printable", "$.data.name"),
    (with_(content=None, template="hello", data={"name": {"first": "Ada"}}), "not_printable", "$.data.name"),
    (with_(content=None, template="hello", channels=[], data={"name": "Ada"}), "no_channels", "$.channels"),
    (b'{"to": {"email": "a@example.com"}, "data": ' + b'{"a":' * 1000 + b"1" + b"}" * 1000 + b"}", "too_deep", ""),
    (b'{"to": {"email": "\\ud800@example.com"}}', "malformed_json", "$"),
]


@pytest.mark.parametrize(("body", "code", "path"), REFUSED, ids=[f"{code}-{path}" for _, code, path in REFUSED])
async def test_bad_input_is_refused_with_its_path_and_changes_nothing(
    flow: Flow, body: bytes, code: str, path: str
) -> None:
    await flow.template("hello", {"en": Content(sms=SmsContent("{{ name }}"))}, name=Variable())
    with pytest.raises(Invalid) as refused:
        await flow.accept_stage.accept("shop", body)
    assert refused.value.code == code or not code
    if path:
        assert refused.value.path == path
    assert [await depth(flow.queue, f"requests.{lane}", "route") for lane in ("critical", "normal", "bulk")] == [
        0,
        0,
        0,
    ]


async def test_one_bad_item_does_not_spoil_the_batch(flow: Flow) -> None:
    body = json.dumps({"notifications": [GOOD, {"to": {}}, GOOD, 7]}).encode()
    answer = await flow.accept_stage.accept_batch("shop", body)
    problems = [(r.code, r.path) if isinstance(r, Invalid) else None for r in answer.results]
    assert problems == [
        None,
        ("no_recipient", "$.notifications[1].to"),
        None,
        ("wrong_type", "$.notifications[3]"),
    ]
    assert await depth(flow.queue, "requests.normal", "route") == 2


async def test_a_batch_has_bounds(flow: Flow) -> None:
    for count in (0, 1001):
        with pytest.raises(Invalid, match="1 to 1000"):
            await flow.accept_stage.accept_batch("shop", json.dumps({"notifications": [GOOD] * count}).encode())


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_else(body: bytes) -> None:
    for decode in (requests.decode_one, requests.decode_batch):
        with contextlib.suppress(Invalid):
            assert decode(body)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@given(json_values)
def test_depth_counts_brackets_outside_strings(value: Any) -> None:
    def deep(inner: Any) -> int:
        if isinstance(inner, dict):
            return 1 + max((deep(v) for v in inner.values()), default=0)
        if isinstance(inner, list):
            return 1 + max((deep(v) for v in inner), default=0)
        return 0

    inner = deep(value)
    for wrapped in (requests.DEEPEST - inner, requests.DEEPEST - inner + 1):
        text = "[" * wrapped + json.dumps(value) + "]" * wrapped
        assert requests.is_too_deep(text.encode()) is (wrapped + inner > requests.DEEPEST)
