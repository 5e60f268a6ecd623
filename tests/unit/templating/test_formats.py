from __future__ import annotations

import contextlib
import re
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidings.model.errors import TemplateError
from tidings.model.notification import Content, PushContent
from tidings.model.template import TemplateVersion
from tidings.model.vocabulary import Channel
from tidings.templating.compile import compile_version
from tidings.templating.formats import formats_of
from tidings.templating.guard import FILTERS

MAY = "2026-05-04T22:30:00Z"


def shown(source: str, locale: str, value: Any, timezone: str | None = None) -> str:
    contents = {tag: Content(push=PushContent("t", source)) for tag in ("en", "de", "pt", "ar", "ja", "pl")}
    compiled = compile_version(TemplateVersion("t", 1, contents))
    content = compiled.render(Channel.PUSH, locale, timezone, {"v": value})
    assert isinstance(content, PushContent)
    return content.body.replace("\xa0", " ").replace("\u202f", " ")


@pytest.mark.parametrize(
    ("source", "locale", "value", "expected"),
    [
        ("{{ v|number }}", "en", 1234567.891, "1,234,567.891"),
        ("{{ v|number(2) }}", "de", 1234.5, "1.234,50"),
        ("{{ v|number(0) }}", "en", "12.6", "13"),
        ("{{ v|percent }}", "en", 0.256, "26%"),
        ("{{ v|percent(1) }}", "de", 0.256, "25,6 %"),
        ("{{ v|currency('EUR') }}", "de", 1234.5, "1.234,50 €"),
        ("{{ v|currency('eur') }}", "en", 0.1, "€0.10"),
        ("{{ v|currency('JPY') }}", "ja", 1200, "￥1,200"),
        ("{{ v|currency('BRL') }}", "pt-BR", 1200, "R$ 1.200,00"),
        ("{{ v|date }}", "en-GB", "2026-05-04", "4 May 2026"),
        ("{{ v|date }}", "en-US", "2026-05-04", "May 4, 2026"),
        ("{{ v|date('full') }}", "ja", "2026-05-04", "2026年5月4日月曜日"),
        ("{{ v|date('short') }}", "de", 1_777_933_800, "04.05.26"),
        ("{{ v|date('short') }}", "de", 1_777_933_800_000, "04.05.26"),
        ("{{ v|plural(one='# item', other='# items') }}", "en", 1, "1 item"),
        ("{{ v|plural(one='# item', other='# items') }}", "en", 1500, "1,500 items"),
        ("{{ v|plural(one='# plik', few='# pliki', many='# plików', other='# pliku') }}", "pl", 3, "3 pliki"),
        ("{{ v|plural(one='# plik', few='# pliki', many='# plików', other='# pliku') }}", "pl", 5, "5 plików"),
        ("{{ v|pluralize }}{{ '1.00'|pluralize }}{{ '1.5'|pluralize }}{{ 0.9995|pluralize }}", "de", 1, "s"),
        ("{{ v|pluralize('y', 'ies') }} {{ []|pluralize('y', 'ies') }}", "en", ["a"], "y ies"),
        ("{{ v|times(3) }} {{ v|plus('0.2') }}", "en", 0.1, "0.3 0.3"),
    ],
)
def test_as_the_reader_writes_it(source: str, locale: str, value: Any, expected: str) -> None:
    assert shown(source, locale, value) == expected


def test_times_are_the_readers() -> None:
    assert shown("{{ v|datetime('short') }}", "de", MAY, "Europe/Berlin") == "05.05.26, 00:30"
    assert shown("{{ v|date }} {{ v|time }}", "en-US", MAY, "America/New_York") == "May 4, 2026 6:30 PM"
    assert shown("{{ v|time }}", "en-GB", MAY) == "22:30"
    assert shown("{{ v|date }}", "de", "2026-05-04", "Asia/Tokyo") == "04.05.2026"


DAYS = [
    "2026-05-04",
    "20260504",
    "2026-W19-1",
    "2026W191",
    "2026-124",
    "2026124",
    " 2026-05-04 ",
    "2026-05-04\n",
    "2026-w19-1",
    "2026-05-04+02:00",
    "2026-05-04-05:00",
    "2026-05-04Z",
    "20260504+14:00",
    "2026-W19-1-12:00",
]


@pytest.mark.parametrize("timezone", ["America/New_York", "Pacific/Kiritimati", "Etc/GMT+12", "UTC", None])
@pytest.mark.parametrize("day", DAYS)
def test_a_day_is_the_same_day_everywhere(day: str, timezone: str | None) -> None:
    assert shown("{{ v|date }}", "en-US", day, timezone) == "May 4, 2026"
    assert shown("{{ v|datetime }}", "en-US", day, timezone) == "May 4, 2026"
    assert shown("{{ v|datetime('full') }}", "de", day, timezone) == "Montag, 4. Mai 2026"
    with pytest.raises(TemplateError, match="is a day and has no time; show it with date instead of time"):
        shown("{{ v|time }}", "en-US", day, timezone)


@pytest.mark.parametrize(
    "instant",
    ["2026-05-04t10:30:00z", "2026-05-04T10:30:00Z", "2026-05-04 10:30:00Z", "2026-05-04T12:30:00+02:00",
     "2026-05-04T10:30:00.123456789Z", "20260504T103000Z", " 2026-05-04T10:30Z ", 1_777_890_600, 1_777_890_600_000],
)  # fmt: skip
def test_an_instant_is_moved_however_it_is_written(instant: Any) -> None:
    assert shown("{{ v|datetime('short') }}", "de", instant, "America/New_York") == "04.05.26, 06:30"
    assert shown("{{ v|date }} {{ v|time }}", "de", instant, "Pacific/Kiritimati") == "05.05.2026 00:30"


def test_midnight_is_an_instant() -> None:
    assert shown("{{ v|date }}", "de", "2026-05-04T00:00:00Z", "America/New_York") == "03.05.2026"


@pytest.mark.parametrize("value", ["2026-13-04", "2026-02-30", "2026-W54-1", "2026-400", "10:30", "2026", "2026-05"])
def test_texts_that_are_almost_a_day_are_refused(value: str) -> None:
    for name in ("date", "time", "datetime"):
        with pytest.raises(TemplateError):
            shown(f"{{{{ v|{name} }}}}", "en", value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1, "1 item"), (1.0, "1 item"), ("1", "1 item"), ("1.00", "1 item"), ("1.000", "1 item"), (" 1 ", "1 item"),
        ("1.0001", "1 item"), ("0.9999", "1 item"), (-1, "-1 item"), (0, "0 items"),
        ("0.0", "0 items"), (1.5, "1.5 items"),
        ("1.10", "1.1 items"), (2, "2 items"), ("1e3", "1,000 items"), (10**15, "1,000,000,000,000,000 items"),
    ],
)  # fmt: skip
def test_the_plural_follows_the_digits_that_are_shown(value: Any, expected: str) -> None:
    assert shown("{{ v|plural(one='# item', other='# items') }}", "en", value) == expected


def test_the_plural_follows_the_language() -> None:
    polish = "{{ v|plural(one='# plik', few='# pliki', many='# plików', other='# pliku') }}"
    for value, expected in (("1.00", "1 plik"), (22, "22 pliki"), ("5.0", "5 plików"), (1.5, "1,5 pliku")):
        assert shown(polish, "pl", value) == expected
    arabic = "{{ v|plural(zero='0', one='1', two='2', few='f', many='m', other='o') }}"
    assert [shown(arabic, "ar", value) for value in (0, 1, "2.0", 3, 11, 100)] == ["0", "1", "2", "f", "m", "o"]


@pytest.mark.parametrize(
    ("source", "value", "expected"),
    [
        ("currency('EUR')", 2.665, "€2.67"), ("currency('EUR')", "2.665", "€2.67"), ("currency('USD')", 1.005, "$1.01"),
        ("currency('JPY')", 0.5, "¥1"), ("currency('JPY')", 1.5, "¥2"), ("currency('JPY')", 2.5, "¥3"),
        ("currency('EUR')", -2.665, "-€2.67"), ("currency('EUR')", -0.001, "€0.00"),
        ("currency('EUR')", 2.6649, "€2.66"),
        ("number(2)", 2.675, "2.68"), ("number(0)", 0.5, "1"), ("number(0)", 2.5, "3"), ("number", 0.0005, "0.001"),
        ("number(1)", "0.25", "0.3"), ("number(2)", -0.001, "0.00"), ("percent", 0.125, "13%"),
        ("percent", 0.005, "1%"),
        ("percent(1)", 0.0625, "6.3%"), ("times(1)|currency('EUR')", 2.665, "€2.67"),
    ],
)  # fmt: skip
def test_halves_are_rounded_up(source: str, value: Any, expected: str) -> None:
    assert shown(f"{{{{ v|{source} }}}}", "en", value) == expected


@given(st.decimals(-(10**9), 10**9, places=4), st.sampled_from(["EUR", "JPY", "KWD"]))
def test_money_is_never_off_by_more_than_half_of_its_smallest_part(amount: Decimal, currency: str) -> None:
    places = {"EUR": 2, "JPY": 0, "KWD": 3}[currency]
    text = shown(f"{{{{ v|currency('{currency}') }}}}", "en", str(amount))
    digits = Decimal("".join(character for character in text if character in "0123456789.-"))
    assert digits == amount.quantize(Decimal(1).scaleb(-places), rounding=ROUND_HALF_UP)


def test_the_half_days_are_named_in_the_readers_language() -> None:
    contents = {"ko": Content(push=PushContent("t", "{{ v|time }}|{{ v|datetime('short') }}"))}
    compiled = compile_version(TemplateVersion("t", 1, contents, default_locale="ko"))
    content = compiled.render(Channel.PUSH, "ko-KR", None, {"v": "2026-05-04T15:30:00Z"})
    assert content == PushContent("t", "오후 3:30|26. 5. 4. 오후 3:30")
    assert shown("{{ v|time }}", "en-US", "2026-05-04T15:30:00Z") == "3:30 PM"


def test_the_language_of_the_text_decides_when_the_readers_is_another_one() -> None:
    assert shown("{{ v|number(1) }}", "fr-FR", 1234.5) == "1,234.5"
    assert shown("{{ v|number(1) }}", "de-CH", 1234.5) == "1’234.5"


@pytest.mark.parametrize("source", ["date", "time", "datetime", "number", "percent", "currency('EUR')", "times(2)"])
@pytest.mark.parametrize(
    "value", [None, True, "1_000", "yesterday", [], {}, "", "1e999", "nan", "Infinity", "9" * 100, 1e300]
)
def test_a_value_that_is_no_date_or_number_is_an_error(source: str, value: Any) -> None:
    with pytest.raises(TemplateError) as caught:
        shown(f"{{{{ v|{source} }}}}", "en", value)
    assert caught.value.path == "en.push.body"


@pytest.mark.parametrize(
    "source",
    [
        "v|date('huge')",
        "v|date(1)",
        "v|date('short', 'x')",
        "v|currency('XXQ')",
        "v|currency(1)",
        "v|currency",
        "v|number(99)",
        "v|number('x')",
        "v|number([1])",
        "v|percent(-1)",
        "v|plural",
        "v|plural(one='x')",
        "v|plural(other='x', lots='y')",
        "v|times",
        "v|times('x')",
    ],
)
def test_a_wrong_argument_is_an_error(source: str) -> None:
    with pytest.raises(TemplateError):
        shown(f"{{{{ {source} }}}}", "en", 5)


@given(st.text(max_size=12))
def test_there_are_formats_for_any_tag(tag: str) -> None:
    assert formats_of(tag).language


HOW_TO = Path(__file__).parents[3] / "docs" / "how-to" / "templates.md"
EXAMPLES = re.findall(r"\| `(\{\{ .*? \}\})` → `(.*?)` \|", HOW_TO.read_text("utf-8"))


@pytest.mark.parametrize(("source", "expected"), EXAMPLES)
def test_the_examples_of_the_documentation_are_right(source: str, expected: str) -> None:
    assert shown(source.replace("\\|", "|"), "de", None) == expected


def test_the_documentation_names_every_filter() -> None:
    assert len(EXAMPLES) == 13
    named = set(re.findall(r"`(\w+)`", "".join(re.findall(r"(?m)^\| (`[^|]*) \|", HOW_TO.read_text("utf-8")))))
    assert named >= FILTERS


NINES = "9" * 60


@pytest.mark.parametrize("digits", [26, 28, 29, 45, 60])
def test_a_number_of_many_digits_is_shown_whole(digits: int) -> None:
    number = NINES[:digits]
    for source in ("{{ v|number }}", "{{ v|number(12) }}", "{{ v|currency('EUR') }}", "{{ v|plural(other='#') }}"):
        assert number in re.sub(r"[^0-9]", "", shown(source, "en", number))
    assert f"{number}00" in re.sub(r"[^0-9]", "", shown("{{ v|percent }}", "en", number))


@pytest.mark.parametrize("digits", [18, 26, 28, 36])
def test_products_and_sums_have_all_digits(digits: int) -> None:
    number = NINES[:digits]
    assert shown("{{ v|times(3) }}", "en", number) == str(int(number) * 3)
    assert shown("{{ v|plus(1) }}", "en", number) == str(int(number) + 1)


FIGURES = [NINES, "-" + NINES[:59], "9e60", "1e-60", "9e61", 1e308, 5e-324, 10**400, "NaN", "Infinity"]
OF_FIGURES = """number number(12) percent percent(12) currency('EUR') plural(other='#') times(v) plus(v) pluralize
    date round
    int filesizeformat""".split()  # noqa: SIM905 (a list of this length reads best as words)


@pytest.mark.parametrize("filter", OF_FIGURES)
@pytest.mark.parametrize("value", FIGURES)
def test_no_number_breaks_a_filter(filter: str, value: Any) -> None:
    with contextlib.suppress(TemplateError):
        shown("{{ v|" + filter + " }}", "de", value)
