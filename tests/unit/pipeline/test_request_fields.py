"""The checks that need nothing but the request itself, at their bounds."""

from __future__ import annotations

import json
from datetime import UTC, datetime, time
from typing import Any

import msgspec
import pytest

from tidings.model.errors import Invalid
from tidings.model.notification import Content, EmailContent, InappContent, PushContent, SmsContent
from tidings.pipeline.compose import requests
from tidings.pipeline.compose.content import ContentRequest
from tidings.pipeline.compose.requests import DEEPEST, FARTHEST_MS, MOST_DEVICES, MOST_ITEMS, RecipientRequest

NOW = 1_700_000_000_000
"""A whole second: 2023-11-14 22:13:20 in UTC."""
GOOD: dict[str, Any] = {"to": {"email": "a@example.com"}, "content": {"sms": {"text": "Hello"}}}
LINK = "https://example.com/a"


def utc(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds")


def refusal(call: Any, *arguments: Any) -> tuple[str, str]:
    with pytest.raises(Invalid) as refused:
        call(*arguments)
    return refused.value.code, refused.value.path


def content(**parts: Any) -> ContentRequest:
    return msgspec.convert(parts, ContentRequest)


class TestContent:
    def test_every_channels_content_is_taken_over_as_it_is(self) -> None:
        made = requests.literal(
            content(
                email={"subject": "s", "text": "t", "html": "<p>h</p>"},
                sms={"text": "x"},
                push={"title": "p", "body": "b", "link": LINK},
                inapp={"title": "i", "body": "c", "link": LINK},
            )
        )
        assert made == Content(
            email=EmailContent("s", text="t", html="<p>h</p>"),
            sms=SmsContent("x"),
            push=PushContent("p", "b", link=LINK),
            inapp=InappContent("i", "c", link=LINK),
        )
        assert type(made.inapp) is InappContent

    @pytest.mark.parametrize("channel", ["push", "inapp"])
    def test_only_a_link_must_be_safe_to_open(self, channel: str) -> None:
        unsafe = "javascript:alert(1)"
        part = {"title": unsafe, "body": unsafe}
        requests.literal(content(**{channel: part | {"link": LINK}}))
        assert refusal(requests.literal, content(**{channel: part | {"link": unsafe}})) == (
            "unsafe_link",
            f"$.content.{channel}.link",
        )

    @pytest.mark.parametrize("field", ["title", "link"])
    def test_a_title_and_a_link_are_one_line_and_a_body_may_be_several(self, field: str) -> None:
        part = {"title": "a", "body": "b\n\tc", "link": LINK}
        requests.literal(content(push=part))
        assert refusal(requests.literal, content(push=part | {field: part[field] + "\n"})) == (
            "control_character",
            f"$.content.push.{field}",
        )

    @pytest.mark.parametrize("more", [{"text": "t"}, {"html": "<p>h</p>"}, {"text": "t", "html": "<p>h</p>"}])
    def test_an_email_needs_a_text_or_html(self, more: dict[str, str]) -> None:
        requests.literal(content(email={"subject": "s"} | more))
        code = refusal(requests.literal, content(email={"subject": "s"}, sms={"text": "x"}))
        assert code == ("missing_content", "$.content.email")

    def test_a_fault_is_found_in_every_channel(self) -> None:
        sms, push = {"text": "x"}, {"title": "a", "body": "b"}
        assert refusal(requests.literal, content(sms=sms, push=push | {"body": "a\0"})) == (
            "nul_character",
            "$.content.push.body",
        )
        assert refusal(requests.literal, content(sms=sms, push=push | {"body": " "})) == (
            "empty",
            "$.content.push.body",
        )
        assert refusal(requests.literal, content(sms=sms, push=push | {"body": "x" * 5000})) == (
            "too_long",
            "$.content.push.body",
        )


class TestBatches:
    @pytest.mark.parametrize("count", [1, MOST_ITEMS])
    def test_items_are_given_as_they_came(self, count: int) -> None:
        items = requests.decode_batch(json.dumps({"notifications": [7] * count}).encode())
        assert [bytes(item) for item in items] == [b"7"] * count

    @pytest.mark.parametrize("count", [0, MOST_ITEMS + 1])
    def test_too_few_and_too_many_items_are_refused(self, count: int) -> None:
        body = json.dumps({"notifications": [7] * count}).encode()
        assert refusal(requests.decode_batch, body) == ("batch_size", "$.notifications")

    @pytest.mark.parametrize(
        ("body", "expected"),
        [
            (b"{", ("malformed_json", "$")),
            (b"{}", ("missing_field", "$.notifications")),
            (b'{"notifications": 7}', ("wrong_type", "$.notifications")),
            (b'{"notifications": [], "more": 1}', ("unknown_field", "$.more")),
        ],
    )
    def test_what_is_no_batch_is_refused_with_its_fault(self, body: bytes, expected: tuple[str, str]) -> None:
        assert refusal(requests.decode_batch, body) == expected


class TestRecipients:
    def test_addresses_are_normalised_and_absent_ones_stay_absent(self) -> None:
        to = requests.recipient(RecipientRequest(phone="+49 151 23456789", timezone="europe/berlin", locale="de_at"))
        assert (to.user_id, to.email, to.phone, to.devices) == (None, None, "+4915123456789", ())
        assert (to.timezone, to.locale) == ("Europe/Berlin", "de-AT")
        bare = requests.recipient(RecipientRequest(email="a@example.com", devices=None))
        assert (bare.email, bare.phone, bare.locale, bare.timezone) == ("a@example.com", None, None, None)
        known = requests.recipient(RecipientRequest(user_id="ada", timezone="Asia/Tokyo"))
        assert (known.user_id, known.timezone) == ("ada", "Asia/Tokyo")

    @pytest.mark.parametrize("inline", [{"email": "a@b.example"}, {"phone": "+4915123456789"}, {"devices": ["x"]}])
    def test_a_user_has_no_inline_addresses_and_each_inline_address_is_enough(self, inline: dict[str, Any]) -> None:
        requests.recipient(RecipientRequest(**inline))
        assert refusal(requests.recipient, RecipientRequest(user_id="ada", **inline)) == ("ambiguous_recipient", "$.to")

    def test_devices_have_a_most_and_a_place_each(self) -> None:
        tokens = [f"token-{number}" for number in range(MOST_DEVICES)]
        assert requests.recipient(RecipientRequest(devices=tokens)).devices == tuple(tokens)
        assert refusal(requests.recipient, RecipientRequest(devices=[*tokens, "x"])) == ("too_many", "$.to.devices")
        assert refusal(requests.recipient, RecipientRequest(devices=["a", ""]))[1] == "$.to.devices[1]"


class TestTimes:
    @pytest.mark.parametrize("after_ms", [-1, 0, FARTHEST_MS])
    def test_a_send_time_may_be_past_or_a_year_ahead(self, after_ms: int) -> None:
        assert requests.times(utc(NOW + after_ms), None, None, NOW).send_at == NOW + after_ms

    def test_a_send_time_is_not_more_than_a_year_ahead(self) -> None:
        assert refusal(requests.times, utc(NOW + FARTHEST_MS + 1), None, None, NOW) == ("too_far", "$.send_at")

    @pytest.mark.parametrize(("send_at", "ends"), [(None, 1), (-5, 1), (5, 6), (0, 1)])
    def test_an_expiry_comes_after_now_and_after_the_send_time(self, send_at: int | None, ends: int) -> None:
        at = None if send_at is None else utc(NOW + send_at)
        made = requests.times(at, utc(NOW + ends), None, NOW)
        assert (made.send_at, made.expires_at) == (None if send_at is None else NOW + send_at, NOW + ends)
        assert refusal(requests.times, at, utc(NOW + ends - 1), None, NOW) == ("already_expired", "$.expires_at")

    def test_there_is_one_send_time(self) -> None:
        both = (utc(NOW), None, "09:00", NOW)
        assert refusal(requests.times, *both) == ("ambiguous_time", "$.send_at_local")
        made = requests.times(None, utc(NOW + 1), "09:00", NOW)
        assert (made.send_at, made.expires_at, made.send_at_local) == (None, NOW + 1, "09:00")

    def test_each_time_is_read_with_its_own_path(self) -> None:
        assert refusal(requests.times, "soon", None, None, NOW) == ("invalid_time", "$.send_at")
        assert refusal(requests.times, None, "soon", None, NOW) == ("invalid_time", "$.expires_at")
        assert refusal(requests.times, None, None, "soon", NOW) == ("invalid_local_time", "$.send_at_local")

    def test_a_local_time_with_a_date_is_not_more_than_a_year_ahead(self) -> None:
        latest = datetime.fromtimestamp((NOW + FARTHEST_MS) / 1000, UTC).replace(tzinfo=None)
        assert requests.local_time(latest.isoformat(), NOW) == latest
        later = latest.replace(second=latest.second + 1).isoformat()
        assert refusal(requests.local_time, later, NOW) == ("too_far", "$.send_at_local")
        assert requests.local_time("22:13", NOW) == time(22, 13)


class TestJson:
    @pytest.mark.parametrize("opening", ["[", '{"a":'])
    def test_nesting_has_a_limit_and_width_has_none(self, opening: str) -> None:
        closing = "]" if opening == "[" else "}"

        def nested(levels: int) -> msgspec.Raw:
            inner = opening * (levels - 1) + "1" + closing * (levels - 1)
            return msgspec.Raw(f'{{"a":{inner}}}'.encode())

        assert requests.json_object(nested(DEEPEST), "$.data")
        assert requests.json_object(msgspec.Raw(bytes(nested(DEEPEST))[:-1] + b',"b":[]}'), "$.data")
        assert refusal(requests.json_object, nested(DEEPEST + 1), "$.data") == ("too_deep", "$.data")
        wide = {"a": [[]] * (2 * DEEPEST), "b": [{}] * (2 * DEEPEST)}
        assert requests.json_object(msgspec.Raw(json.dumps(wide).encode()), "$.data") == wide

    def test_brackets_that_were_closed_do_not_make_what_follows_less_deep(self) -> None:
        for inner, deepest in (
            (b"[[],", DEEPEST - 1),
            (b'[{"]": [[]]},', DEEPEST - 3),
            (b'{"a": {}, "b":', DEEPEST - 1),
        ):
            close = b"}" if inner.startswith(b"{") else b"]"
            for levels, too_deep in ((deepest, False), (deepest + 1, True), (40, True), (10_000, True)):
                assert requests.is_too_deep(inner * levels + b"1" + close * levels) is too_deep

    def test_no_text_anywhere_holds_a_nul(self) -> None:
        for value in ({"a": "\0"}, {"\0": 1}, {"a": {"b": ["x", {"c": "y\0"}]}}, {"a": [1, None, "\0"]}):
            assert refusal(requests.json_object, msgspec.Raw(json.dumps(value).encode()), "$.metadata") == (
                "nul_character",
                "$.metadata",
            )
        said = {"a": "\\u0000", "b": [1, 2.5, None, True]}
        assert requests.json_object(msgspec.Raw(json.dumps(said).encode()), "$.data") == said

    @pytest.mark.parametrize("text", [b"[1]", b"1", b'"x"', b"true", b'{"a": "\xff"}'])
    def test_what_is_no_object_is_refused(self, text: bytes) -> None:
        assert refusal(requests.json_object, msgspec.Raw(text), "$.data") == ("wrong_type", "$.data")

    def test_null_counts_as_left_out(self) -> None:
        assert requests.json_object(msgspec.Raw(b"null"), "$.data") == {}
        assert (requests.given(msgspec.Raw(b"null")), requests.given(msgspec.Raw(b'{"a":1}'))) == (b"{}", b'{"a":1}')
        request = requests.decode_one(json.dumps(GOOD | {"priority": None}).encode())
        assert request.lane == "normal"


class TestNames:
    @pytest.mark.parametrize("name", ["a", "Z.9_-", "7", "x" * 64])
    def test_a_category_is_given_back(self, name: str) -> None:
        assert requests.category(name) == name

    @pytest.mark.parametrize("name", ["", "x" * 65, "-a", ".a", "a b", "ä", "a\n"])
    def test_what_is_no_category_is_refused(self, name: str) -> None:
        assert refusal(requests.category, name) == ("invalid_name", "$.category")

    @pytest.mark.parametrize(
        ("name", "is_plain"),
        [
            ("a", True),
            ("x" * 200, True),
            ("ä b", True),
            ("", False),
            ("x" * 201, False),
            ("a\n", False),
            ("\x7f", False),
        ],
    )
    def test_a_plain_name_is_short_and_without_control_characters(self, name: str, *, is_plain: bool) -> None:
        assert requests.is_plain(name) is is_plain
        if is_plain:
            requests.plain(name, "$.to.user_id")
        else:
            assert refusal(requests.plain, name, "$.to.user_id") == ("invalid_name", "$.to.user_id")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (GOOD | {"to": {"mail": "x"}}, ("unknown_field", "$.to.mail")),
        (GOOD | {"content": {"sms": {}}}, ("missing_field", "$.content.sms.text")),
        (GOOD | {"content": {"push": {"title": "unknown field `x`"}}}, ("missing_field", "$.content.push.body")),
        (GOOD | {"channels": "sms"}, ("wrong_type", "$.channels")),
        (GOOD | {"channels": []}, ("no_channels", "$.channels")),
        (GOOD | {"channels": ["sms", "fax"]}, ("no_such_channel", "$.channels[1]")),
        (GOOD | {"category": 7}, ("wrong_type", "$.category")),
        (7, ("wrong_type", "$")),
    ],
)
def test_a_decoding_error_names_the_field(body: Any, expected: tuple[str, str]) -> None:
    assert refusal(requests.decode_one, json.dumps(body).encode()) == expected


def test_a_body_that_is_nested_too_deeply_to_be_read_is_refused() -> None:
    told = requests.explain(RecursionError())
    assert (told.code, told.path) == ("too_deep", "$")


class TestStored:
    def test_fields_of_the_next_version_are_left_out(self) -> None:
        newer: Any = {
            "to": GOOD["to"] | {"novelty": 1},
            "content": {"sms": {"text": "Hello", "novelty": {"text": "a"}}, "novelty": None},
            "novelty": [GOOD],
        }
        assert requests.decode_stored(json.dumps(newer).encode()) == requests.decode_one(json.dumps(GOOD).encode())

    def test_what_this_version_knows_it_reads_unchanged(self) -> None:
        body = b'{"to": {"email": "a@example.com"}, "data": {"n": 1.10}, "content": {"sms": {"text": "x"}}}'
        assert requests.decode_stored(body) == requests.decode_one(body)

    @pytest.mark.parametrize("wrong", [{"to": 7}, {"novelty": 1}, {"to": {"novelty": 1}, "priority": "nope"}])
    def test_what_it_cannot_read_it_refuses(self, wrong: dict[str, Any]) -> None:
        with pytest.raises(Invalid):
            requests.decode_stored(json.dumps(wrong).encode())
