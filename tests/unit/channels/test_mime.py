"""An email as bytes: no text changes the headers, and reading gives back the same content."""

from __future__ import annotations

import email
import email.policy
import re
from email.headerregistry import Address
from email.message import EmailMessage
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.vendors import NOW, email_delivery, id_of
from tidings.channels.email.headers import one_line, split_address
from tidings.channels.email.mime import build, message_id
from tidings.model.ids import DELIVERY_PREFIX, to_text
from tidings.model.notification import EmailContent

SENDER = Address(display_name="The Shop, Ltd. “Größe”", username="hello", domain="shop.example")
OURS = {
    "From",
    "To",
    "Subject",
    "Date",
    "Message-ID",
    "Auto-Submitted",
    "X-Tidings-Delivery",
    "MIME-Version",
    "Content-Type",
    "Content-Transfer-Encoding",
}


def written(
    text: str | None = "Hello", recipient: tuple[str, str] = ("ada", "example.com"), **more: Any
) -> EmailMessage:
    delivery = email_delivery(1, "@".join(recipient), text or "", more)
    data = build(delivery, SENDER, recipient, NOW)
    assert data.replace(b"\r\n", b"").count(b"\n") == 0
    assert max(len(line) for line in data.split(b"\r\n")) <= 998
    parsed = email.message_from_bytes(data, policy=email.policy.default)
    assert isinstance(parsed, EmailMessage)
    return parsed


def body(mail: EmailMessage, kind: str) -> str:
    part = mail.get_body((kind,))
    assert isinstance(part, EmailMessage)
    return str(part.get_content())


def test_the_headers() -> None:
    mail = written(subject="Grüße 🎁", name="O'Neil, Zoë")
    assert set(mail.keys()) <= OURS
    assert mail["Subject"] == "Grüße 🎁"
    assert mail["From"].addresses == (SENDER,)
    [to] = mail["To"].addresses
    assert (to.display_name, to.addr_spec) == ("O'Neil, Zoë", "ada@example.com")
    assert mail["Message-ID"] == "<dlv-1.1@shop.example>"
    assert mail["Auto-Submitted"] == "auto-generated"
    assert mail["X-Tidings-Delivery"] == to_text(DELIVERY_PREFIX, id_of(1))
    assert mail["Date"].datetime.timestamp() * 1000 == NOW


def test_the_plain_part_comes_first() -> None:
    mail = written("Hello", html="<p>Hello</p>")
    assert mail.get_content_type() == "multipart/alternative"
    assert [part.get_content_type() for part in mail.iter_parts()] == ["text/plain", "text/html"]


def test_html_alone_is_a_single_part() -> None:
    alone = EmailContent(subject="Hi", html="<p>Grüße</p>")
    delivery = msgspec.structs.replace(email_delivery(1, None, "", {}), content=alone)
    data = build(delivery, SENDER, ("ada", "example.com"), NOW)
    mail = email.message_from_bytes(data, policy=email.policy.default)
    assert mail.get_content_type() == "text/html"


def test_every_relay_can_carry_it() -> None:
    delivery = email_delivery(1, None, "Grüße " * 500, {"html": "<p>" + "長い" * 2000 + "</p>"})
    assert build(delivery, SENDER, ("ada", "example.com"), NOW).isascii()


def test_a_local_part_in_another_script_makes_headers_utf8() -> None:
    delivery = email_delivery(1, None, "Hello", {"name": "山田"})
    data = build(delivery, SENDER, ("用户", "example.com"), NOW)
    assert "To: 山田 <用户@example.com>".encode() in data


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=300)


@settings(max_examples=300, deadline=None)
@given(subject=texts, name=texts, text=texts, html=texts)
def test_no_text_changes_the_headers(subject: str, name: str, text: str, html: str) -> None:
    mail = written(text, subject=subject, name=name, html=html)
    assert set(mail.keys()) <= OURS
    assert len(mail.keys()) == len(set(mail.keys()))
    [to] = mail["To"].addresses
    assert to.addr_spec == "ada@example.com"
    assert [part.get_content_type() for part in mail.iter_parts()] == ["text/plain", "text/html"]
    assert mail["From"].addresses == (SENDER,)


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1, max_size=120))
def test_printable_subjects_come_back(subject: str) -> None:
    assert str(written(subject=subject)["Subject"]) == subject


def content(part: EmailMessage) -> str:
    """The text of a part, whatever its transfer encoding."""
    payload = part.get_payload(decode=True)
    assert isinstance(payload, bytes)
    return payload.decode()


@settings(max_examples=300, deadline=None)
@given(text=texts, html=texts)
def test_bodies_come_back_with_their_line_ends_made_crlf(text: str, html: str) -> None:
    parts = list(written(text, html=html).iter_parts())
    for part, sent in zip(parts, (text, html), strict=True):
        assert isinstance(part, EmailMessage)
        expected = re.sub(r"\r\n|\r|\n", "\r\n", sent)
        assert content(part) == (expected if expected.endswith("\r\n") else expected + "\r\n")


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("Hello", "7bit"),
        ("Hello\t" + "word " * 100, "7bit"),
        ("x" * 999, "quoted-printable"),
        ("Grüße " * 5 + "and plain words " * 20, "quoted-printable"),
        ("長い" * 100, "base64"),
        ("nul \x00 and plain words", "quoted-printable"),
    ],
)
def test_the_smallest_transfer_encoding_is_taken(text: str, encoding: str) -> None:
    part = written(text).get_body(("plain",))
    assert part is not None
    assert part["Content-Transfer-Encoding"] == encoding


@pytest.mark.parametrize(
    ("text", "html", "encodings"),
    [
        ("Hello", "<p>Hello</p>", [None, "7bit", "7bit"]),
        ("Grüße", "<p>Hello</p>", ["8bit", "8bit", "7bit"]),
        ("長い" * 100, "<p>" + "ü" * 499 + "</p>", ["8bit", "8bit", "base64"]),
        ("ü" * 499, "x" * 999, ["8bit", "8bit", "quoted-printable"]),
        ("nul \x00 and ü", "\x1b and <p>plain words</p>", [None, "base64", "quoted-printable"]),
    ],
)
def test_eight_bits_where_they_may_travel(text: str, html: str, encodings: list[str | None]) -> None:
    delivery = email_delivery(1, None, text, {"html": html})
    data = build(delivery, SENDER, ("ada", "example.com"), NOW, eight_bit=True)
    mail = email.message_from_bytes(data, policy=email.policy.default)
    found = [part["Content-Transfer-Encoding"] for part in mail.walk()]
    assert found == encodings
    assert all(len(line) <= 998 for line in data.split(b"\r\n"))
    assert found[0] == ("8bit" if "8bit" in found[1:] else None)
    assert data.partition(b"\r\n\r\n")[0].isascii()


@settings(max_examples=300, deadline=None)
@given(text=texts, html=texts, subject=texts)
def test_what_travels_in_eight_bits_says_the_same(text: str, html: str, subject: str) -> None:
    delivery = email_delivery(1, None, text, {"html": html, "subject": subject})
    mails = [build(delivery, SENDER, ("ada", "example.com"), NOW, eight_bit=bits) for bits in (False, True)]
    seven, eight = (email.message_from_bytes(mail, policy=email.policy.default) for mail in mails)
    assert mails[0].isascii()
    assert (seven["Subject"], seven["To"]) == (eight["Subject"], eight["To"])
    for one, other in zip(seven.iter_parts(), eight.iter_parts(), strict=True):
        assert isinstance(one, EmailMessage)
        assert isinstance(other, EmailMessage)
        assert content(one) == content(other)


def test_a_boundary_is_in_no_part() -> None:
    text = f"--=_{id_of(1).hex}\r\n"
    mail = written(text, html=text)
    assert [content(part) for part in mail.iter_parts() if isinstance(part, EmailMessage)] == [text, text]


@given(st.text(max_size=50))
def test_one_line_has_no_line_ends(text: str) -> None:
    line = one_line(text)
    assert len(line.splitlines()) <= 1
    assert "\x00" not in line
    line.encode()


@pytest.mark.parametrize(
    "address",
    [
        "",
        "ada",
        "@example.com",
        "ada@",
        "a b@example.com",
        "ada@exa mple.com",
        "ada@example.com, eve@example.com",
        "<ada@example.com>",
        "Ada <ada@example.com>",
        "ada@example.com\r\nRCPT TO:<eve@example.com>",
        "ada@example.com\x00",
        '"a b"@example.com',
        "a" * 65 + "@example.com",
        "ada@" + "e" * 256,
        "ada..b@example.com",
        ".ada@example.com",
        "ada@.example.com",
        "ada@example.com\u2028",
        "ada\ud800@example.com",
        "a@b@example.com",
    ],
)
def test_texts_that_are_no_plain_address(address: str) -> None:
    assert split_address(address) is None


@pytest.mark.parametrize(
    "address", ["ada@example.com", "a+b_c-d.e!#$%&'*/=?^`{|}~@x.example", "用户@例え.example", "a@localhost"]
)
def test_plain_addresses(address: str) -> None:
    assert split_address(address) == tuple(address.rsplit("@", 1))


@given(st.text(max_size=40))
def test_a_message_id_is_one_word(key: str) -> None:
    try:
        key.encode()
    except UnicodeEncodeError:
        return
    made = message_id(key, "shop.example")
    assert made.startswith("<")
    assert made.endswith("@shop.example>")
    assert not set(made[1:-1]) & set(' <>\r\n\t"()[]:;,\\\x00')
