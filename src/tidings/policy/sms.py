"""The size of a text message: its alphabet, and the segments in which it is sent and charged.

3GPP TS 23.038: the GSM 7-bit default alphabet and its extension table (section 6.2.1), else UCS-2, which carriers and
phones treat as UTF-16. 3GPP TS 23.040: in a message of several segments a header of six octets joins them, which leaves
153 septets or 67 code units in each. Neither an escaped character nor a surrogate pair is cut in two.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from typing import Literal

from msgspec import Struct

_DEFAULT = (
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?"
    "¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà"
)
_EXTENSION = "\f^{}\\[~]|€"
_ONLY_DEFAULT = re.compile(f"[{re.escape(_DEFAULT)}]*")
_ONLY_GSM = re.compile(f"[{re.escape(_DEFAULT + _EXTENSION)}]*")
_ESCAPED = frozenset(_EXTENSION)

_GSM_SINGLE, _GSM_JOINED = 160, 153
_UCS2_SINGLE, _UCS2_JOINED = 70, 67

Encoding = Literal["gsm-7", "ucs-2"]


class SmsSize(Struct, frozen=True):
    """How large a text message is: `units` are septets in GSM-7 and 16-bit code units in UCS-2."""

    encoding: Encoding
    units: int
    segments: int


# Typographic characters outside the alphabet, common in formatted numbers and times, with their twins in the alphabet.
_TWINS = str.maketrans(
    dict.fromkeys("\xa0\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000", " ")
    | dict.fromkeys("‘’‚‛ʼʹ′´`", "'")
    | dict.fromkeys("“”„‟″", '"')
    | dict.fromkeys("‐‑‒–—―−﹣－", "-")
    | {"\u2026": "...", "\u2044": "/", "\u2215": "/"}
    | dict.fromkeys("\xad\u061c\u200b\u200e\u200f\u2060\u2066\u2067\u2068\u2069\ufeff", "")
)


def plainly(text: str) -> str:
    """The text in GSM-7 if each of its characters has a twin there, else as it is.

    One character outside GSM-7 makes a message up to three times as expensive. Typographic quotes, dashes, spaces and
    composed accents have twins. A text that needs UCS-2 anyway keeps its characters.
    """
    if (text.isascii() and "`" not in text) or _ONLY_GSM.fullmatch(text):
        return text
    twin = unicodedata.normalize("NFC", text).translate(_TWINS)
    return twin if _ONLY_GSM.fullmatch(twin) else text


def segments(text: str) -> SmsSize:
    """The size of `text` as one message. An empty text has no segment."""
    if _ONLY_DEFAULT.fullmatch(text):
        units = len(text)
        count = min(units, 1) if units <= _GSM_SINGLE else -(-units // _GSM_JOINED)
        return SmsSize("gsm-7", units, count)
    if _ONLY_GSM.fullmatch(text):
        return _packed("gsm-7", (2 if character in _ESCAPED else 1 for character in text), _GSM_SINGLE, _GSM_JOINED)
    return _packed("ucs-2", (2 if character > "\uffff" else 1 for character in text), _UCS2_SINGLE, _UCS2_JOINED)


def _packed(encoding: Encoding, widths: Iterable[int], single: int, joined: int) -> SmsSize:
    """The size of a text of characters with these widths; a character that does not fit starts the next segment."""
    units, count, room = 0, 0, 0
    for width in widths:
        units += width
        if width > room:
            count += 1
            room = joined
        room -= width
    return SmsSize(encoding, units, 1 if units <= single else count)
