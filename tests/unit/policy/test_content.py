from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidings.model.notification import EmailContent, InappContent, PushContent, SmsContent
from tidings.model.sending import RenderedContent
from tidings.policy.content import MAX_PUSH_BYTES, MAX_SMS, MAX_SUBJECT, is_blank, unfit

BLANK = [
    None,
    "",
    " ",
    "\n\t\r\n",
    "\u00a0\u3000",
    "\u200b\u200d\ufeff\u2060",
    "\u00ad\u202e",
    "\u2800\u3164",
    "\u200b \n",
]


@pytest.mark.parametrize("text", BLANK)
def test_a_text_that_shows_nothing_is_blank(text: str | None) -> None:
    assert is_blank(text)


@given(st.text())
def test_a_text_that_shows_something_is_not_blank(text: str) -> None:
    assert not is_blank(text + ".")
    assert not is_blank("  \u200b" + "é" + text)


FITS: list[RenderedContent] = [
    SmsContent("x" * MAX_SMS),
    EmailContent("s" * MAX_SUBJECT, text="x"),
    EmailContent("s", html="<p>x</p>"),
    EmailContent("s", text="", html="<img src=x>"),
    PushContent("t", ""),
    PushContent("", "b"),
    PushContent("t", "b" * 3_800, link="https://x.example/"),
    InappContent("t", "b" * 100_000),
]


@pytest.mark.parametrize("content", FITS)
def test_content_that_can_be_sent(content: RenderedContent) -> None:
    assert unfit(content) is None


@pytest.mark.parametrize(
    ("content", "reason", "field"),
    [
        (SmsContent(" \n"), "empty_content", "text"),
        (SmsContent("x" * (MAX_SMS + 1)), "too_long", "text"),
        (EmailContent(" ", text="x"), "empty_content", "subject"),
        (EmailContent("s", text="\u200b"), "empty_content", "text"),
        (EmailContent("s", html=" "), "empty_content", "html"),
        (EmailContent("s", text=" ", html=""), "empty_content", "text"),
        (EmailContent("s" * (MAX_SUBJECT + 1), text="x"), "too_long", "subject"),
        (PushContent("", " "), "empty_content", "body"),
        (InappContent("\n", ""), "empty_content", "body"),
        (PushContent("t", "b" * 5_000), "too_long", "body"),
        (PushContent("t", "é" * 2_100), "too_long", "body"),
        (PushContent("t", '"' * 2_100), "too_long", "body"),
        (PushContent("t" * 5_000, "b"), "too_long", "title"),
        (PushContent("t", "b", link="https://x.example/" + "a" * 4_100), "too_long", "link"),
    ],
)
def test_content_that_cannot_be_sent(content: RenderedContent, reason: str, field: str) -> None:
    problem = unfit(content)
    assert problem is not None
    assert (problem.reason, problem.field) == (reason, field)


@pytest.mark.parametrize("link", [None, "https://x.example/"])
def test_a_push_notification_is_as_long_as_the_vendors_take_and_no_longer(link: str | None) -> None:
    payload = '{"notification":{"title":"t","body":""},"data":{"link":"%s"}}' % (link or "")
    room = MAX_PUSH_BYTES - 64 - len(payload)  # 64 for the delivery's id
    assert unfit(PushContent("t", "b" * room, link)) is None
    assert unfit(PushContent("t", "b" * (room + 1), link)) is not None


@given(st.text(max_size=2_000), st.text(max_size=3_000), st.none() | st.text(max_size=300))
def test_a_push_notification_that_is_let_through_fits(title: str, body: str, link: str | None) -> None:
    if unfit(PushContent(title, body, link)) is None:
        data = {"delivery_id": "dlv_" + "0" * 26, "link": link or ""}
        payload = {"notification": {"title": title, "body": body}, "data": data}
        if title.strip() or body.strip():
            assert len(msgspec.json.encode(payload)) <= MAX_PUSH_BYTES
