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
