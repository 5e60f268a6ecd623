"""Header fields: reading gives back exactly what was written, and relays accept every line."""

from __future__ import annotations

import base64
import binascii
import email
import email.policy
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidings.channels.email.fields import mailbox, unstructured
from tidings.channels.email.headers import one_line

ENCODED_WORD = re.compile(r"=\?([^?]*)\?([qQbB])\?([^? ]*)\?=")
SUBJECTS = [
    "Grüße à a@b #A-1001 — Jr. Grüße – № – (Büro),",
    "Tribune de  Genève",
    "=?utf-8?q?literal?=",
    "a =?utf-8?q?b?= c",
    " leading and trailing ",
    "two  spaces",
    "",
    " ",
    "   ",
    "é",
    "é é  é",
    "a é b é c",
    "é" * 300,
    "x" * 300,
    "x" * 69 + " y",
    "x" * 70,
    "👨\u200d👩\u200d👧\u200d👦" * 30,
    "ご注文ありがとうございます。" * 12,
    "Ваш заказ № 1001 отправлен " * 8,
    "مرحبا بك في المتجر",
    "non\u00a0breaking\u2003spaces\u3000here",
    "soft\u00adhyphen and zero\u200bwidth",
    'ends with a colon: and (comment) <x@y> "quoted" back\\slash',
    "_under_scores_ and ? marks ?= =? ==",
    "word " * 60,
    "Grüße " + "word " * 60 + "Ende ü",
]


def decoded(field: str) -> str:
    """The value of a field by RFC 5322 and 2047, read independently: unfold, then decode, then join."""
    name, _, value = field.removesuffix("\r\n").partition(":")
    assert name
    unfolded = value.replace("\r\n", "").removeprefix(" ")
    shown, end, after_encoded = "", 0, False
    for word in ENCODED_WORD.finditer(unfolded):
        between = unfolded[end : word.start()]
        if not (after_encoded and between.strip(" ") == ""):
            shown += between
        charset, kind, payload = word.groups()
        octets = base64.b64decode(payload) if kind in "bB" else binascii.a2b_qp(payload.encode(), header=True)
        shown += octets.decode(charset)
        end, after_encoded = word.end(), True
    return shown + unfolded[end:]


def check_lines(field: str, *, foldable: bool = True) -> None:
    assert field.endswith("\r\n")
    lines = field.removesuffix("\r\n").split("\r\n")
    for line in lines:
        assert len(line.encode()) <= (78 if foldable else 998), line
        assert line.strip(" ")
    for line in lines[1:]:
        assert line.startswith(" ")
    unfolded = field.replace("\r\n", "")
    for word in ENCODED_WORD.finditer(unfolded):
        assert len(word[0]) <= 75
        assert unfolded[word.start() - 1] == " "
        assert unfolded[word.end() :][:1] in {"", " "}


def by_the_standard_library(field: str) -> str:
    return str(email.message_from_string(field + "\r\n", policy=email.policy.default)["Subject"])


@pytest.mark.parametrize("text", SUBJECTS)
@pytest.mark.parametrize("utf8", [False, True])
def test_a_subject_comes_back(text: str, utf8: bool) -> None:
    field = unstructured("Subject", text, utf8=utf8)
    assert utf8 or field.isascii()
    check_lines(field)
    assert decoded(field) == text
    if not utf8 and text.strip():
        assert by_the_standard_library(field) == text


printable = st.text(
    st.one_of(
        st.sampled_from(' éß=?_-aZ9,:<>()"\\№🎁山　\u00a0\u200b'),
        st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]),
    ),
    max_size=200,
)


@settings(max_examples=500, deadline=None)
@given(text=printable, utf8=st.booleans(), name=st.sampled_from(["Subject", "X-A", "Reply-To-Somebody-With-A-Name"]))
def test_every_printable_text_comes_back(text: str, utf8: bool, name: str) -> None:
    field = unstructured(name, text, utf8=utf8)
    check_lines(field)
    assert decoded(field) == text


@settings(max_examples=300, deadline=None)
@given(text=st.text(max_size=100))
def test_no_text_adds_a_field(text: str) -> None:
    field = unstructured("Subject", one_line(text))
    assert re.sub(r"\r\n (?=\S)", "", field).count("\n") == 1
    assert len(email.message_from_string(field + "\r\n").keys()) == 1


@settings(max_examples=500, deadline=None)
@given(display=printable.filter(lambda name: bool(name.strip())), utf8=st.booleans())
def test_a_name_comes_back_with_its_address(display: str, utf8: bool) -> None:
    field = mailbox("To", display, "ada@example.com", utf8=utf8)
    check_lines(field)
    unfolded = field.replace("\r\n", "").removeprefix("To: ")
    phrase, _, address = unfolded.rpartition(" ")
    assert address == "<ada@example.com>"
    if phrase.startswith('"'):
        assert re.fullmatch(r'"(?:[^"\\]|\\.)*"', phrase)
        assert re.sub(r"\\(.)", r"\1", phrase[1:-1]) == display
    else:
        assert decoded(f"To: {phrase}\r\n") == display
        assert not set(ENCODED_WORD.sub("", phrase)) & set('()<>[]:;@\\,."')


@pytest.mark.parametrize(
    "display",
    [
        "Ada",
        "Ada Lovelace",
        "O'Neil, Zoë",
        "The Shop, Ltd. “Größe”",
        'The "best" shop',
        "a@b",
        "A. B.",
        "山田 太郎",
    ],
)
def test_the_standard_library_reads_names(display: str) -> None:
    mail = email.message_from_string(mailbox("To", display, "ada@example.com") + "\r\n", policy=email.policy.default)
    [found] = mail["To"].addresses
    assert (found.display_name, found.addr_spec) == (display, "ada@example.com")


def test_a_lone_surrogate_is_refused() -> None:
    with pytest.raises(UnicodeEncodeError):
        unstructured("Subject", "a\ud800b")
