from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidings.policy.locale import best, canonical, direction, fallbacks

TAGS = st.sampled_from(
    ["pt-BR", "pt", "zh-TW", "zh-Hant-HK", "sr-Latn-RS", "ar-EG", "he", "de-CH-1996", "en-US-u-hc-h12", "es-419", "ja"]
)


@pytest.mark.parametrize(
    ("locale", "chain"),
    [
        ("pt-BR", ("pt-BR", "pt", "en")),
        ("PT_br", ("pt-BR", "pt", "en")),
        ("en-GB", ("en-GB", "en-001", "en")),
        ("de-CH-1996", ("de-CH-1996", "de-CH", "de", "en")),
        ("en-US-u-hc-h12", ("en-US-u-hc-h12", "en-US-u-hc", "en-US", "en")),
        ("zh-TW", ("zh-TW", "zh-Hant-TW", "zh-Hant", "en")),
        ("zh-Hant-HK", ("zh-Hant-HK", "zh-Hant", "en")),
        ("zh-CN", ("zh-CN", "zh-Hans-CN", "zh-Hans", "zh", "en")),
        ("zh", ("zh", "zh-Hans", "en")),
        ("sr-Latn", ("sr-Latn", "en")),
        ("sr-RS", ("sr-RS", "sr-Cyrl-RS", "sr-Cyrl", "sr", "en")),
        ("not a tag", ("en",)),
        (None, ("en",)),
        ("", ("en",)),
    ],
)
def test_the_chain(locale: str | None, chain: tuple[str, ...]) -> None:
    assert fallbacks(locale, "en") == chain


@given(TAGS | st.text(max_size=12) | st.none(), TAGS)
def test_a_chain_has_each_tag_once_and_ends_with_the_default(locale: str | None, default: str) -> None:
    chain = fallbacks(locale, default)
    assert len(chain) == len(set(chain))
    assert default in chain
    if locale is not None and canonical(locale) is not None:
        assert chain[0] == canonical(locale)


@given(st.text(max_size=80))
def test_canonical_is_idempotent_and_never_fails(text: str) -> None:
    tag = canonical(text)
    if tag is not None:
        assert canonical(tag) == tag
        assert canonical(tag.upper()) == tag
        assert direction(tag) in {"ltr", "rtl"}


@given(TAGS, TAGS, st.sets(TAGS))
def test_the_best_is_available_and_what_the_chain_names_comes_first(
    locale: str, default: str, available: set[str]
) -> None:
    found = best(locale, default, available)
    own = [tag for tag in fallbacks(locale, default)[:-1] if tag in available and tag != default]
    assert found is None or found in available
    assert (found is not None) or default not in available
    if own and not any("-Han" in tag for tag in available):
        assert found == own[0]
    if found is not None and found != default:
        assert found.split("-")[0] == locale.split("-", maxsplit=1)[0]


ALIASES = [
    ("iw", "he", "rtl"),
    ("iw-IL", "he-IL", "rtl"),
    ("in", "id", "ltr"),
    ("in_ID", "id-ID", "ltr"),
    ("ji", "yi", "rtl"),
    ("jw", "jv", "ltr"),
    ("mo", "ro", "ltr"),
    ("tl-PH", "fil-PH", "ltr"),
    ("sh", "sr-Latn", "ltr"),
    ("sh-Cyrl", "sr-Cyrl", "ltr"),
    ("sh-BA", "sr-Latn-BA", "ltr"),
    ("prs", "fa-AF", "rtl"),
    ("zh-yue-HK", "yue-HK", "ltr"),
    ("zh-cmn-Hans-CN", "zh-Hans-CN", "ltr"),
    ("ar-arb-EG", "ar-EG", "rtl"),
    ("por", "pt", "ltr"),
    ("ger-AT", "de-AT", "ltr"),
    ("i-klingon", "tlh", "ltr"),
    ("no-bok", "nb", "ltr"),
    ("zh-min-nan", "nan", "ltr"),
    ("en-GB-oed", "en-GB-oxendict", "ltr"),
    ("de-DD", "de-DE", "ltr"),
    ("my-BU", "my-MM", "ltr"),
    ("en-UK", "en-GB", "ltr"),
    ("en-840", "en-US", "ltr"),
    ("ru-SU", "ru-RU", "ltr"),
    ("uk-SU", "uk-UA", "ltr"),
    ("sr-YU", "sr-RS", "ltr"),
    ("ja-Latn-heploc", "ja-Latn-alalc97", "ltr"),
]


@pytest.mark.parametrize(("written", "preferred", "runs"), ALIASES)
def test_deprecated_subtags_become_the_preferred_ones(written: str, preferred: str, runs: str) -> None:
    assert canonical(written) == canonical(preferred) == preferred
    assert direction(written) == direction(preferred) == runs
    assert best(written, "en", [preferred, "en"]) == preferred
    assert best(preferred, "en", [written, "en"]) == written


@pytest.mark.parametrize(
    ("locale", "default", "available", "expected"),
    [
        ("iw-IL", "en", ["he", "en"], "he"),
        ("pt", "en", ["pt-BR", "en"], "pt-BR"),
        ("pt", "en", ["pt-PT", "en"], "pt-PT"),
        ("pt", "en", ["pt-PT", "pt-BR", "en"], "pt-BR"),
        ("pt", "en", ["pt-BR", "pt", "en"], "pt"),
        ("pt-PT", "en", ["pt-BR", "en"], "en"),
        ("en", "de", ["en-GB", "de"], "en-GB"),
        ("en", "de", ["en-GB", "en-AU", "de"], "en-AU"),
        ("en", "en-GB", ["en-GB", "en-AU"], "en-GB"),
        ("en", "de", ["en-US", "en-AU", "de"], "en-US"),
        ("es", "en", ["es-MX", "es-419", "en"], "es-419"),
        ("es", "en", ["es-MX", "es-ES", "en"], "es-ES"),
        ("es-MX", "en", ["es-419", "es", "en"], "es-419"),
        ("es-MX", "en", ["es-ES", "es", "en"], "es"),
        ("es-ES", "en", ["es-419", "en"], "en"),
        ("pt-AO", "en", ["pt-PT", "pt", "en"], "pt-PT"),
        ("pt-AO", "en", ["pt-BR", "pt", "en"], "pt"),
        ("en-AU", "de", ["en-001", "en", "de"], "en-001"),
        ("en-US", "de", ["en-001", "en", "de"], "en"),
        ("zh-Hant-MO", "en", ["zh-Hant-HK", "zh-Hant", "en"], "zh-Hant-HK"),
        ("zh-Hant", "en", ["zh-TW", "en"], "zh-TW"),
        ("zh-Hant-TW", "en", ["zh-TW", "en"], "zh-TW"),
        ("zh-TW", "en", ["zh-Hant-TW", "en"], "zh-Hant-TW"),
        ("zh-Hans", "en", ["zh-CN", "en"], "zh-CN"),
        ("zh", "en", ["zh-CN", "en"], "zh-CN"),
        ("zh", "en", ["zh-TW", "en"], "en"),
        ("zh-TW", "en", ["zh", "zh-CN", "en"], "en"),
        ("sr", "en", ["sr-Latn", "en"], "en"),
        ("sr", "en", ["sr-Cyrl-RS", "en"], "sr-Cyrl-RS"),
        ("nb-NO", "en", ["no", "en"], "no"),
        ("no", "en", ["nb-NO", "en"], "nb-NO"),
        ("nn-NO", "en", ["nb", "en"], "nb"),
        ("no", "en", ["nb-DK", "nb-NO", "en"], "nb-NO"),
        ("nb-NO", "en", ["no-NO", "no", "en"], "no-NO"),
        ("de-DE", "en", ["de-Latn-DE", "en"], "de-Latn-DE"),
        ("zh-HK", "en", ["zh-TW", "en"], "zh-TW"),
        ("sr-Latn", "en", ["sr-Latn-ME", "en"], "sr-Latn-ME"),
        ("zh-TW", "zh-TW", ["zh-TW"], "zh-TW"),
        (None, "iw", ["he"], "he"),
    ],
)
def test_which_content_serves_a_reader(locale: str | None, default: str, available: list[str], expected: str) -> None:
    assert best(locale, default, available) == expected
    assert best(locale, default, list(reversed(available))) == expected


def test_a_divided_region_of_an_unknown_language_is_its_first_successor() -> None:
    assert canonical("qaa-SU") == "qaa-RU"


@pytest.mark.parametrize("available", [["iw", "he", "en"], ["he", "iw", "en"]])
def test_of_two_contents_with_one_meaning_the_first_by_name_serves(available: list[str]) -> None:
    assert best("he-IL", "en", available) == "he"


@pytest.mark.parametrize("tag", ["en-abc", "xx-yue", "zh-yue-cmn", "zh-y"])
def test_an_extended_language_stands_only_where_the_registry_has_some(tag: str) -> None:
    assert canonical(tag) is None


def test_the_case_of_available_locales_does_not_matter() -> None:
    assert best("pt-BR", "en", {"PT-br", "en"}) == "PT-br"
    assert best("zh_tw", "en", {"ZH-HANT", "en"}) == "ZH-HANT"


@pytest.mark.parametrize("tag", ["en", "ar-x-priv", "x", "a", "en--US", "-en", "en-", "e n", "en\n", "é", "en-US" * 20])
def test_only_tags_are_tags(tag: str) -> None:
    assert (canonical(tag) is not None) == (tag in {"en", "ar-x-priv"})


@pytest.mark.parametrize(
    ("tag", "expected"),
    [
        ("ar", "rtl"),
        ("ar-EG", "rtl"),
        ("he", "rtl"),
        ("fa-AF", "rtl"),
        ("ur", "rtl"),
        ("dv", "rtl"),
        ("pa-PK", "rtl"),
        ("pa-IN", "ltr"),
        ("az-Arab", "rtl"),
        ("ar-Latn", "ltr"),
        ("ja", "ltr"),
        ("en", "ltr"),
        ("nonsense!", "ltr"),
    ],
)
def test_direction(tag: str, expected: str) -> None:
    assert direction(tag) == expected
