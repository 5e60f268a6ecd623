"""Locales: which content a reader gets, and in which direction it runs.

Tags are BCP 47 (RFC 5646). The fallbacks are the lookup of RFC 4647, section 3.4, with one care more: a tag never falls
back to a language alone whose readers use another script (`zh-TW` does not become `zh`). Which script a language or
region uses is CLDR's data on likely subtags.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import lru_cache
from typing import Literal

from babel.core import get_global

Direction = Literal["ltr", "rtl"]

_TAG = re.compile(
    r"(?P<language>[a-z]{2,3}|[a-z]{5,8})"
    r"(?:-(?P<script>[a-z]{4}))?"
    r"(?:-(?P<region>[a-z]{2}|[0-9]{3}))?"
    r"(?P<rest>(?:-(?:[a-z0-9]{5,8}|[0-9][a-z0-9]{3}))*"
    r"(?:-[a-wyz0-9](?:-[a-z0-9]{2,8})+)*"
    r"(?:-x(?:-[a-z0-9]{1,8})+)?)"
)
_MAX_TAG = 64
# The scripts that Unicode writes from right to left and that living languages use.
_RIGHT_TO_LEFT = frozenset({"Adlm", "Arab", "Hebr", "Mand", "Nkoo", "Rohg", "Samr", "Syrc", "Thaa", "Yezi"})


@lru_cache(maxsize=4096)
def canonical(text: str) -> str | None:
    """The tag as RFC 5646, section 2.1.1, writes it (`PT_br` becomes `pt-BR`); None when it is no tag."""
    if len(text) > _MAX_TAG:
        return None
    match = _TAG.fullmatch(text.replace("_", "-").lower()) if text.isascii() else None
    if match is None:
        return None
    language, script, region, rest = match["language"], match["script"], match["region"], match["rest"]
    tag: str = language
    if script:
        tag += "-" + script.title()
    if region:
        tag += "-" + region.upper()
    return tag + rest


@lru_cache(maxsize=4096)
def fallbacks(locale: str | None, default: str) -> tuple[str, ...]:
    """The locales to look for, best first and each once; the last one is `default`.

    `pt-BR` gives `pt-BR`, `pt`, default; `zh-TW` gives `zh-TW`, `zh-Hant-TW`, `zh-Hant`, default.
    """
    tag = canonical(locale) if locale else None
    chain: dict[str, None] = {}
    if tag is not None:
        subtags = tag.split("-")
        language = subtags[0]
        script = _script(tag)
        for end in range(len(subtags), 0, -1):
            if end > 1 and len(subtags[end - 1]) == 1:
                continue  # a singleton that introduced what was cut off
            shorter = "-".join(subtags[:end])
            foreign = end == 1 and script is not None and script != _script(language)
            if not foreign:
                chain[shorter] = None
            if script is not None and end <= 2 and _is_written_in_several_scripts(language):
                _with_script(chain, subtags[:end], script)
    chain[canonical(default) or default] = None
    return tuple(chain)


def best(locale: str | None, default: str, available: Collection[str]) -> str | None:
    """The one of `available` (as it is written there) that serves `locale` best; None when not even `default` is."""
    by_case = {(canonical(name) or name).lower(): name for name in available}
    for tag in fallbacks(locale, default):
        found = by_case.get(tag.lower())
        if found is not None:
            return found
    return None


@lru_cache(maxsize=4096)
def direction(locale: str) -> Direction:
    """`rtl` for a locale whose script runs from right to left, `ltr` for all others."""
    tag = canonical(locale)
    return "rtl" if tag is not None and _script(tag) in _RIGHT_TO_LEFT else "ltr"


def _with_script(chain: dict[str, None], subtags: list[str], script: str) -> None:
    """Add the forms of a tag that name its script; nothing when it does so itself."""
    if len(subtags) > 1 and len(subtags[1]) == 4:
        return
    chain["-".join([subtags[0], script, *subtags[1:]])] = None
    chain[f"{subtags[0]}-{script}"] = None


def _script(tag: str) -> str | None:
    """The script that a tag names, or the likely one of its language and region; None when CLDR knows none."""
    subtags = tag.split("-")
    if len(subtags) > 1 and len(subtags[1]) == 4 and subtags[1].isalpha():
        return subtags[1]
    likely = get_global("likely_subtags")
    known: str | None = None
    if len(subtags) > 1:
        known = likely.get(f"{subtags[0]}_{subtags[1]}")
    known = known or likely.get(subtags[0])
    if known is None:
        return None
    return next((part for part in known.split("_")[1:] if len(part) == 4), None)


@lru_cache(maxsize=512)
def _is_written_in_several_scripts(language: str) -> bool:
    """Whether regions differ in the script of the language."""
    own = _script(language)
    prefix = language + "_"
    return any(
        _script(name.replace("_", "-")) != own
        for name in get_global("likely_subtags")
        if name.startswith(prefix) and len(name) - len(prefix) in {2, 3}
    )
