from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidings.model.errors import TemplateError
from tidings.model.notification import Content, PushContent
from tidings.model.template import TemplateVersion
from tidings.model.vocabulary import Channel
from tidings.templating.compile import compile_version
from tidings.templating.formats import reading

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


def test_the_language_of_the_text_decides_when_the_readers_is_another_one() -> None:
    assert shown("{{ v|number(1) }}", "fr-FR", 1234.5) == "1,234.5"
    assert shown("{{ v|number(1) }}", "de-CH", 1234.5) == "1’234.5"


@pytest.mark.parametrize("source", ["date", "time", "datetime", "number", "percent", "currency('EUR')", "times(2)"])
@pytest.mark.parametrize("value", [None, True, "yesterday", [], {}, "", "1e999", "nan", "Infinity", "9" * 100, 1e300])
def test_what_is_no_date_or_number_is_an_error(source: str, value: Any) -> None:
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
    assert reading(tag).language
