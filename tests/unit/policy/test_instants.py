"""Parsing instants: compared with the standard library, and texts that are refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidings.model.errors import Invalid
from tidings.policy.instants import parse

zones = st.integers(-23 * 60 - 59, 23 * 60 + 59).map(lambda minutes: timezone(timedelta(minutes=minutes)))
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@given(st.datetimes(timezones=zones), st.sampled_from("Tt "), st.integers(0, 9))
def test_every_form_of_rfc_3339_is_accepted(moment: datetime, separator: str, digits: int) -> None:
    text = moment.isoformat(timespec="microseconds")
    head, offset = text[:26], text[26:]
    fraction = (head[20:] + "000")[:digits]
    written = head[:10] + separator + head[11:19] + ("." + fraction if fraction else "") + offset
    whole = (moment.replace(microsecond=0, tzinfo=UTC) - EPOCH) // timedelta(milliseconds=1)
    whole -= (moment.utcoffset() or timedelta()) // timedelta(milliseconds=1)
    assert parse(written) == whole + int((fraction + "000")[:3])


likely = st.from_regex(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9:.]{4,12}[Zz+-]?[0-9:]{0,5}", fullmatch=True)


@given(st.text(max_size=40) | likely)
def test_anything_else_is_refused_with_a_sentence(text: str) -> None:
    refused: Invalid | None = None
    at = 0
    try:
        at = parse(text, "$.send_at")
    except Invalid as error:
        refused = error
    if refused is None:
        assert -62_135_683_200_000 - 86_400_000 < at < 253_402_387_200_000
        return
    assert refused.code in {"invalid_time", "no_timezone"}
    assert refused.path == "$.send_at"
    assert refused.detail


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("9999-12-31T23:59:59Z", 253_402_300_799_000),
        ("9999-12-31T23:59:59-23:59", 253_402_387_139_000),
        ("0001-01-01T00:00:00+23:59", -62_135_683_140_000),
        ("1969-12-31T23:59:59.999Z", -1),
        ("2016-12-31T23:59:60Z", 1_483_228_800_000),
    ],
)
def test_the_ends_of_the_calendar(text: str, at: int) -> None:
    assert parse(text) == at


NINE = 1_769_850_000_000  # 2026-01-31T09:00:00Z


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("2026-01-31T09:00Z", NINE),
        ("2026-01-31t09:00:00z", NINE),
        ("2026-01-31 09:00:00+00", NINE),
        ("2026-01-31T09:00:07Z", NINE + 7_000),
        ("2026-01-31T09:00:00,5Z", NINE + 500),
        ("2026-01-31T09:00:00.1239Z", NINE + 123),
        ("2026-01-31T10:00:00+01", NINE),
        ("2026-01-31T10:30:00+0130", NINE),
        ("2026-01-31T10:30:00+01:30", NINE),
        ("2026-01-31T07:30:00-01:30", NINE),
        ("2026-02-01T08:59:00+23:59", NINE),
        ("2026-01-30T09:01:00-23:59", NINE),
        ("2026-01-31T09:00:00." + "0" * 79 + "Z", NINE),  # a hundred characters
        ("2016-12-31T23:59:60.9Z", 1_483_228_800_000),
        ("2017-01-01T00:59:60+01:00", 1_483_228_800_000),
    ],
)
def test_every_form_has_its_instant(text: str, at: int) -> None:
    assert parse(text) == at


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("soon", "write the time as"),
        ("2026-01-31T09:00:00." + "0" * 80 + "Z", "write the time as"),
        ("2026-01-31", "date alone"),
        ("2026-01-31x", "after the date comes T"),
        ("2026-01-31T9:00Z", "after the date comes T"),
        ("2026-01-31T09:00:00 CET", "offset alone, not ' CET'"),
        ("2026-01-31T09:00:00Z ", "white space"),
        ("2026-01-31T09:00:00Z[UTC]", "leave out '\\[UTC\\]'"),
        ("2026-01-31T24:00:00Z", "midnight is 00:00"),
        ("2026-01-31T25:00:00Z", "no hour 25"),
        ("2026-01-31T09:60:00Z", "no minute 60"),
        ("2026-01-31T09:00:61Z", "no second 61"),
        ("2026-01-31T09:00:60Z", "leap second"),
        ("2026-01-30T23:59:60Z", "leap second"),
        ("2026-02-01T09:00:60Z", "leap second"),
        ("2026-01-31T23:59:60+01:00", "leap second"),
        ("9999-12-31T23:59:60Z", "leap second"),
        ("0001-01-01T00:00:60+00:01", "leap second"),
        ("0000-01-31T09:00:00Z", "no year 0000"),
        ("2026-13-01T09:00:00Z", "no month 13"),
        ("2026-00-01T09:00:00Z", "no month 00"),
        ("2026-02-29T09:00:00Z", "no 2026-02-29"),
        ("2026-01-31T09:00:00+24:00", "no offset \\+24:00"),
        ("2026-01-31T09:00:00-09:60", "no offset -09:60"),
    ],
)
def test_the_sentence_says_what_is_wrong(text: str, says: str) -> None:
    with pytest.raises(Invalid, match=says) as refused:
        parse(text)
    assert (refused.value.code, refused.value.path) == ("invalid_time", "$")


@pytest.mark.parametrize("text", ["2026-01-31T09:00:00", "2026-01-31 09:00", "2026-01-31T09:00:00.5"])
def test_a_time_without_its_offset_has_a_code_of_its_own(text: str) -> None:
    with pytest.raises(Invalid, match="with its offset") as refused:
        parse(text)
    assert refused.value.code == "no_timezone"
