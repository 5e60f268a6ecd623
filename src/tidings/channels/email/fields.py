"""Encodes and folds the header fields of an email, in the same way on every Python.

Facts: RFC 5322 sections 2.1.1 (lines of 78, at most 998), 2.2.3 (folding before white space), 3.2.3 to 3.2.5 (atoms,
quoted strings, phrases); RFC 2047 sections 2 (an encoded word has at most 75 characters), 4.2 (Q), 5 (white space
between two encoded words is not shown, other white space is; whole characters in each) and 6.2; RFC 6532 (UTF-8).
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Sequence

LINE = 78
_ENCODED_WORD = 75
_FRAME = len("=?utf-8?q?") + len("?=")
_LONGEST_QUOTED = 60
_ATOM = re.compile(r"[A-Za-z0-9!#$%&'*+\-/=?^_`{|}~]+")
_ATOMS = re.compile(rf"{_ATOM.pattern}(?: {_ATOM.pattern})*")
_LITERAL_IN_Q = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!*+-/")
"""Octets that RFC 2047 section 5 (3) lets stand in a phrase; a subject could have more."""


def unstructured(name: str, text: str, *, utf8: bool = False) -> str:
    """The field `name` with `text` as lines that end with CRLF. `text` has no line ends; `utf8` permits RFC 6532.

    Unfolding and decoding gives exactly `text` again. Raises UnicodeEncodeError for a lone surrogate.
    """
    room = LINE - len(name) - 2
    if _is_plain(text) and len(text) <= room:
        return f"{name}: {text}\r\n"
    return _folded(name, list(_tokens(text, room, utf8=utf8)))


def mailbox(name: str, display: str, address: str, *, utf8: bool = False) -> str:
    """The field `name` with one address and, if it is not empty, the display name before it."""
    if _ATOMS.fullmatch(display) and "=?" not in display and len(name) + len(display) + len(address) + 5 <= LINE:
        return f"{name}: {display} <{address}>\r\n"
    words = [f"<{address}>"] if display else [address]
    if display:
        words = [*_phrase(display, LINE - len(name) - 2, utf8=utf8), *words]
    return _folded(name, words)


def local_part(local: str) -> str:
    """The part of an address before the @, in quotes unless it is a dot-atom (RFC 5322 section 3.4.1)."""
    if all(_ATOM.fullmatch(atom) or not atom.isascii() for atom in local.split(".")):
        return local
    return _quoted(local)


def _is_plain(text: str) -> bool:
    """Whether it may stand in a header as it is, if it is short enough."""
    return (
        text.isascii()
        and text.isprintable()
        and "=?" not in text
        and "  " not in text
        and text[:1] not in ("", " ")
        and text[-1] != " "
    )


def _folded(name: str, words: Sequence[str]) -> str:
    field, length = f"{name}:", len(name) + 1
    for place, word in enumerate(words):
        size = 1 + _octets(word)
        if place and length + size > LINE:
            field, length = field + "\r\n", 0
        field, length = f"{field} {word}", length + size
    return field + "\r\n"


def _tokens(text: str, room: int, *, utf8: bool) -> Iterator[str]:
    """The words of the text. Everything from the first to the last word that must be encoded is encoded together."""
    words = text.split(" ")
    encoded = [index for index, word in enumerate(words) if _must_be_encoded(word, room, utf8=utf8)]
    if not encoded:
        yield from words
        return
    first, last = encoded[0], encoded[-1] + 1
    yield from words[:first]
    yield from _encoded(" ".join(words[first:last]), room if first == 0 else _ENCODED_WORD)
    yield from words[last:]


def _must_be_encoded(word: str, room: int, *, utf8: bool) -> bool:
    # An empty word means a space at an end or next to another space: mail readers and relays drop such spaces.
    if not word or "=?" in word or not word.isprintable() or _octets(word) > room:
        return True
    return not utf8 and not word.isascii()


def _phrase(display: str, room: int, *, utf8: bool) -> list[str]:
    """The display name as words: atoms, a quoted string, or encoded words."""
    words = display.split(" ")
    if any(not word for word in words) or "=?" in display or not display.isprintable():
        return list(_encoded(display, room))
    if not utf8 and not display.isascii():
        return list(_encoded(display, room))
    if all(_octets(word) <= room and (_ATOM.fullmatch(word) or not word.isascii()) for word in words) and not (
        utf8 and any(character in display for character in '()<>[]:;@\\,."')
    ):
        return words
    if _octets(display) <= _LONGEST_QUOTED:
        return [_quoted(display)]
    return list(_encoded(display, room))


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _encoded(text: str, first_room: int) -> Iterator[str]:
    """The text as encoded words that each hold whole characters; the first has at most `first_room` characters."""
    pieces = [character.encode() for character in text]
    q_size = sum(len(_q(piece)) for piece in pieces)
    is_q = q_size <= 4 * ((sum(map(len, pieces)) + 2) // 3)
    kind, write = ("q", _q) if is_q else ("b", _b)
    # `size` counts characters of Q, but octets for Base64, where three octets together become four characters.
    room, size = min(first_room, _ENCODED_WORD) - _FRAME, 0
    word: list[bytes] = []
    for piece in pieces:
        grown = size + len(_q(piece)) if is_q else size + len(piece)
        if word and (grown if is_q else 4 * -(-grown // 3)) > room:
            yield f"=?utf-8?{kind}?{write(b''.join(word))}?="
            room, word, grown = _ENCODED_WORD - _FRAME, [], len(_q(piece)) if is_q else len(piece)
        word.append(piece)
        size = grown
    yield f"=?utf-8?{kind}?{write(b''.join(word))}?="


def _q(octets: bytes) -> str:
    return "".join(
        chr(octet) if octet in _LITERAL_IN_Q else "_" if octet == 0x20 else f"={octet:02X}" for octet in octets
    )


def _b(octets: bytes) -> str:
    return base64.b64encode(octets).decode()


def _octets(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())
