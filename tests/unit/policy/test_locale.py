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
        ("en-GB", ("en-GB", "en")),
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
def test_the_best_is_available_and_the_first_of_the_chain(locale: str, default: str, available: set[str]) -> None:
    chain = [tag for tag in fallbacks(locale, default) if tag in available]
    assert best(locale, default, available) == (chain[0] if chain else None)


def test_the_case_of_what_is_available_does_not_matter() -> None:
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
