"""Cleans pasted texts of invisible characters, and of other ways to write digits and separators."""

from __future__ import annotations

import re
import unicodedata

_INVISIBLE = (
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f"
    "\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
"""Unicode's `Default_Ignorable_Code_Point`: no font draws these characters."""
_HIDDEN = re.compile(f"[{_INVISIBLE}]")
_JOINERS = "\u200c\u200d"
_SEPARATORS = frozenset("/.()[]\uff0f\uff0e\uff08\uff09\u00b7\u2022\u2212\u30fc\uff65\u30fb\u2219\u22c5")
_PLUS = frozenset("+\uff0b\ufe62")


def visible(text: str) -> str:
    """The text without white space at its ends and without invisible characters.

    A joiner between two characters beyond ASCII stays: it may be part of the spelling of a word.
    """
    text = text.strip()
    if text.isascii() or not _HIDDEN.search(text):
        return text
    kept = []
    for place, character in enumerate(text):
        if not _HIDDEN.match(character) or (character in _JOINERS and _joins(text, place)):
            kept.append(character)
    return "".join(kept).strip()


def digits(text: str) -> str:
    """The text with separators and invisible characters removed, and with every plus sign and digit in ASCII.

    All other characters stay, so a phone number becomes `+` and digits, and anything else can be told from one.
    """
    return "".join(map(_folded, text))


def culprit(text: str, place: int) -> str:
    """The character at `place` described so that a person finds it: `'ä' (U+00E4) after the 'b'`."""
    character = text[place]
    shown = f"{character!r} (U+{ord(character):04X})" if character.isprintable() else f"U+{ord(character):04X}"
    if character == " ":
        shown = "a space"
    if place:
        return f"{shown} after the {text[place - 1]!r}"
    return f"{shown} before the {text[1]!r}" if len(text) > 1 else shown


def _joins(text: str, place: int) -> bool:
    return 0 < place < len(text) - 1 and not text[place - 1].isascii() and not text[place + 1].isascii()


def _folded(character: str) -> str:
    if "0" <= character <= "9":
        return character
    if character in _PLUS:
        return "+"
    category = unicodedata.category(character)
    if category == "Nd":
        return str(unicodedata.decimal(character))
    separates = character in _SEPARATORS or category in {"Cf", "Zs", "Zl", "Zp", "Pd"} or character.isspace()
    return "" if separates or _HIDDEN.match(character) else character
