from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidings.policy.sms import SmsSize, plainly, segments

BASIC = "aZ09@£$¥èÇ\n\r_ΔΩÆß!\"#¤%&'()*+,-./:;<=>?¡ÄÖÑÜ§¿äöñüà "
ESCAPED = "^{}\\[~]|€\f"


def cut(text: str, width: dict[bool, int], wide: str | None, single: int, joined: int) -> list[str]:
    """The segments of the text, cut naively."""
    parts = [""]
    used = 0
    total = 0
    for character in text:
        size = width[character in wide] if wide is not None else width[character > "\uffff"]
        total += size
        if used + size > joined:
            parts.append("")
            used = 0
        parts[-1] += character
        used += size
    return [text] if total <= single else parts


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("", SmsSize("gsm-7", 0, 0)),
        ("a", SmsSize("gsm-7", 1, 1)),
        ("a" * 160, SmsSize("gsm-7", 160, 1)),
        ("a" * 161, SmsSize("gsm-7", 161, 2)),
        ("a" * 306, SmsSize("gsm-7", 306, 2)),
        ("a" * 307, SmsSize("gsm-7", 307, 3)),
        ("€" * 80, SmsSize("gsm-7", 160, 1)),
        ("€" * 81, SmsSize("gsm-7", 162, 2)),
        # 153 septets hold 76 escaped characters; the last septet stays empty rather than cut an escape in two.
        ("€" * 152, SmsSize("gsm-7", 304, 2)),
        ("€" * 153, SmsSize("gsm-7", 306, 3)),
        ("こ" * 70, SmsSize("ucs-2", 70, 1)),
        ("こ" * 71, SmsSize("ucs-2", 71, 2)),
        ("こ" * 134, SmsSize("ucs-2", 134, 2)),
        ("こ" * 135, SmsSize("ucs-2", 135, 3)),
        ("😀" * 35, SmsSize("ucs-2", 70, 1)),
        # 67 units hold 33 pairs.
        ("😀" * 66, SmsSize("ucs-2", 132, 2)),
        ("😀" * 67, SmsSize("ucs-2", 134, 3)),
        ("مرحبا", SmsSize("ucs-2", 5, 1)),
        ("naïve", SmsSize("ucs-2", 5, 1)),
        ("Grüße, ça va? Ç", SmsSize("ucs-2", 15, 1)),
        ("`", SmsSize("ucs-2", 1, 1)),
        ("\ud800", SmsSize("ucs-2", 1, 1)),
    ],
)
def test_known_sizes(text: str, size: SmsSize) -> None:
    assert segments(text) == size


@given(st.text(alphabet=BASIC + ESCAPED, max_size=700))
def test_gsm_is_cut_without_tearing_an_escape(text: str) -> None:
    size = segments(text)
    parts = cut(text, {True: 2, False: 1}, ESCAPED, 160, 153)
    assert size.encoding == "gsm-7"
    assert size.units == len(text) + sum(character in ESCAPED for character in text)
    assert size.segments == (len(parts) if text else 0)


@given(st.text(max_size=400).map(lambda text: text + "ж"))
def test_ucs2_is_cut_without_tearing_a_pair(text: str) -> None:
    size = segments(text)
    assert size.encoding == "ucs-2"
    assert size.units == len(text.encode("utf-16-be", "surrogatepass")) // 2
    assert size.segments == len(cut(text, {True: 2, False: 1}, None, 70, 67))


def test_the_default_alphabet_is_complete() -> None:
    # 128 code points of TS 23.038 without the escape itself.
    gsm = [chr(point) for point in range(0x3000) if segments(chr(point)) == SmsSize("gsm-7", 1, 1)]
    escaped = [chr(point) for point in range(0x3000) if segments(chr(point)) == SmsSize("gsm-7", 2, 1)]
    assert len(gsm) == 127
    assert sorted(escaped) == sorted(ESCAPED)


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("Hello", "Hello"),
        ("Grüße: 5 € [1]", "Grüße: 5 € [1]"),
        ("`Hi`", "'Hi'"),
        ("“Hi” – it’s 10\u202fkm…", '"Hi" - it\'s 10 km...'),
        ("caffe\u0300", "caffè"),
        ("one\u200btwo", "onetwo"),
        ("naïve “quotes”", "naïve “quotes”"),
        ("`ж`", "`ж`"),
        ("", ""),
    ],
)
def test_a_text_takes_twins_from_the_alphabet_if_that_makes_it_cheaper(text: str, plain: str) -> None:
    assert plainly(text) == plain


def test_the_last_character_of_the_basic_plane_is_one_unit() -> None:
    assert segments("\uffff") == SmsSize("ucs-2", 1, 1)
    assert segments("\U00010000") == SmsSize("ucs-2", 2, 1)
