"""Replies come whole out of the parser, wherever the network cuts them."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidings.channels.email.smtp_reading import LONGEST_REPLY_BYTES, Garbled, Replies, Reply

codes = st.integers(200, 599)
lines = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=40)
replies = st.lists(
    st.tuples(codes, st.lists(lines, min_size=1, max_size=4), st.sampled_from(["\r\n", "\n"])), max_size=6
)


def wire(code: int, texts: list[str], end: str) -> bytes:
    *before, last = texts
    return "".join([*(f"{code}-{text}{end}" for text in before), f"{code} {last}{end}"]).encode()


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    marks = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[start:end] for start, end in itertools.pairwise(marks)]


@given(said=replies, cuts=st.lists(st.integers(0, 10_000), max_size=12))
def test_replies_are_the_same_wherever_they_are_cut(said: list[tuple[int, list[str], str]], cuts: list[int]) -> None:
    data = b"".join(wire(*one) for one in said)
    reader = Replies()
    found = [reply for piece in pieces(data, cuts) for reply in reader.feed(piece)]
    assert found == [Reply(code, "\n".join(text.rstrip(" ") for text in texts)) for code, texts, _ in said]


@given(said=replies)
def test_byte_by_byte(said: list[tuple[int, list[str], str]]) -> None:
    data = b"".join(wire(*one) for one in said)
    reader, whole = Replies(), Replies()
    assert [reply for byte in data for reply in reader.feed(bytes([byte]))] == list(whole.feed(data))


def read(parts: list[bytes]) -> tuple[list[Reply], bool]:
    """The replies, and whether something garbled ended them."""
    reader = Replies()
    found: list[Reply] = []
    try:
        for part in parts:
            found.extend(reader.feed(part))
    except Garbled:
        return found, True
    return found, False


@given(data=st.binary(max_size=300), cuts=st.lists(st.integers(0, 300), max_size=5))
def test_whatever_comes_is_a_reply_or_garbled_and_cuts_change_nothing(data: bytes, cuts: list[int]) -> None:
    assert read([data]) == read(pieces(data, cuts))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"250\r\n", [Reply(250, "")]),
        (b"250 \r\n", [Reply(250, "")]),
        (b"250-\r\n250 ok\r\n", [Reply(250, "\nok")]),
        (b"250-a\r\n250\r\n", [Reply(250, "a\n")]),
        (
            b"550-5.1.1 no\r\n550 5.1.1 such user\r\n354 go\r\n",
            [Reply(550, "5.1.1 no\n5.1.1 such user"), Reply(354, "go")],
        ),
        (b"250-first\r\n451 last\r\n", [Reply(451, "first\nlast")]),
        ("250 grüß".encode("latin-1") + b"\r\n", [Reply(250, "gr��")]),
    ],
)
def test_examples(data: bytes, expected: list[Reply]) -> None:
    assert list(Replies().feed(data)) == expected


@pytest.mark.parametrize(
    "data",
    [
        b"\r\n",
        b"ok\r\n",
        b"25 ok\r\n",
        b"2500 ok\r\n",
        b"250x\r\n",
        b"150 ok\r\n",
        b"650 ok\r\n",
        b"\x00\xff\r\n",
        b" 250 ok\r\n",
    ],
)
def test_what_is_no_reply(data: bytes) -> None:
    with pytest.raises(Garbled):
        list(Replies().feed(data))


def test_the_replies_before_garbage_count() -> None:
    assert read([b"250 ok\r\nnonsense\r\n250 late\r\n"]) == ([Reply(250, "ok")], True)


@pytest.mark.parametrize("endless", [b"x" * 100, b"250-and more\r\n"])
def test_a_reply_without_an_end_is_not_kept(endless: bytes) -> None:
    assert read([endless] * (LONGEST_REPLY_BYTES // len(endless) // 2)) == ([], False)
    assert read([endless] * (2 * LONGEST_REPLY_BYTES // len(endless))) == ([], True)
