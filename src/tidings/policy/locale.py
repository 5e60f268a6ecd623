"""Locales: which content a reader gets, and whether it runs from right to left.

Tags are BCP 47 (RFC 5646). Fallbacks follow the lookup of RFC 4647, section 3.4, with one exception: a tag never falls
back to a language alone whose readers use another script (`zh-TW` does not become `zh`). CLDR's likely subtags say
which script a language or region uses.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import Literal

from babel.core import get_global

Direction = Literal["ltr", "rtl"]

_TAG = re.compile(
    r"(?P<language>[a-z]{2,3}|[a-z]{5,8})"
    r"(?:-(?P<extended>[a-z]{3}))?"
    r"(?:-(?P<script>[a-z]{4}))?"
    r"(?:-(?P<region>[a-z]{2}|[0-9]{3}))?"
    r"(?P<variants>(?:-(?:[a-z0-9]{5,8}|[0-9][a-z0-9]{3}))*)"
    r"(?P<rest>(?:-[a-wyz0-9](?:-[a-z0-9]{2,8})+)*"
    r"(?:-x(?:-[a-z0-9]{1,8})+)?)"
)
_MAX_TAG = 64
# The scripts that Unicode writes from right to left and that living languages use.
_RIGHT_TO_LEFT = frozenset({"Adlm", "Arab", "Hebr", "Mand", "Nkoo", "Rohg", "Samr", "Syrc", "Thaa", "Yezi"})
# The languages that may stand before an extended language (`zh-yue`), RFC 5646 section 2.2.2. The list is closed.
_EXTENDED_AFTER = frozenset({"ar", "kok", "lv", "ms", "sgn", "sw", "uz", "zh"})
# Tags older than RFC 4646 that its grammar does not cover, with the registry's preferred form. The list is closed.
_GRANDFATHERED = {
    "art-lojban": "jbo",
    "cel-gaulish": "xtg",
    "en-gb-oed": "en-gb-oxendict",
    "i-ami": "ami",
    "i-bnn": "bnn",
    "i-default": "en-x-i-default",
    "i-enochian": "und-x-i-enochian",
    "i-hak": "hak",
    "i-klingon": "tlh",
    "i-lux": "lb",
    "i-mingo": "see-x-i-mingo",
    "i-navajo": "nv",
    "i-pwn": "pwn",
    "i-tao": "tao",
    "i-tay": "tay",
    "i-tsu": "tsu",
    "no-bok": "nb",
    "no-nyn": "nn",
    "sgn-be-fr": "sfb",
    "sgn-be-nl": "vgt",
    "sgn-ch-de": "sgg",
    "zh-guoyu": "zh",
    "zh-hakka": "hak",
    "zh-min": "nan-x-zh-min",
    "zh-min-nan": "nan",
    "zh-xiang": "hsn",
}
# Norwegian has three tags; most readers who use `no` write Bokmål.
_RELATED = {"no": ("nb",), "nb": ("no",), "nn": ("no", "nb")}


@lru_cache(maxsize=4096)
def canonical(text: str) -> str | None:
    """The tag in the canonical form of RFC 5646, section 4.5; None when it is no tag.

    `PT_br` becomes `pt-BR`. CLDR's preferred subtags replace deprecated ones: `iw-IL` becomes `he-IL`, `sh` `sr-Latn`,
    `zh-yue` `yue`, `de-DD` `de-DE`, `i-klingon` `tlh`.
    """
    if len(text) > _MAX_TAG or not text.isascii():
        return None
    text = text.replace("_", "-").lower()
    match = _TAG.fullmatch(_GRANDFATHERED.get(text, text))
    if match is None:
        return None
    language, script, region = match["language"], match["script"] or "", match["region"] or ""
    if match["extended"] is not None:
        if language not in _EXTENDED_AFTER:
            return None
        language = match["extended"]
    preferred = get_global("language_aliases").get(language, language).split("_")
    language = preferred[0]
    for part in preferred[1:]:  # a deprecated language may imply a script (`sh`) or a region (`prs`)
        script, region = (script or part, region) if len(part) == 4 else (script, region or part)
    script = get_global("script_aliases").get(script.title(), script.title())
    region = _region(language, region.upper())
    variants = [_variant(variant) for variant in match["variants"].split("-")[1:]]
    return "-".join([part for part in (language, script, region, *variants) if part]) + match["rest"]


def _region(language: str, region: str) -> str:
    """The present name of a region. If it was divided, its successor in which most readers of the language live."""
    heirs = get_global("territory_aliases").get(region)
    if not heirs:
        return region
    home = get_global("likely_subtags").get(language, "").rpartition("_")[2]
    return home if home in heirs else str(heirs[0])


def _variant(variant: str) -> str:
    return str(get_global("variant_aliases").get(variant, variant))


@lru_cache(maxsize=4096)
def fallbacks(locale: str | None, default: str) -> tuple[str, ...]:
    """The locales to look for, best first, without repetition; the last one is `default`.

    `pt-BR` gives `pt-BR`, `pt`, default; `zh-TW` gives `zh-TW`, `zh-Hant-TW`, `zh-Hant`, default. CLDR's parents come
    between: `es-MX` gives `es-MX`, `es-419`, `es`, default.
    """
    tag = canonical(locale) if locale else None
    chain: dict[str, None] = {}
    if tag is not None:
        subtags = tag.split("-")
        language = subtags[0]
        script = _script(tag)
        for end in range(len(subtags), 0, -1):
            if end > 1 and len(subtags[end - 1]) == 1:
                continue  # a singleton whose extension was cut off
            shorter = "-".join(subtags[:end])
            foreign = end == 1 and script is not None and script != _script(language)
            if not foreign:
                chain[shorter] = None
                if parent := get_global("parent_exceptions").get(shorter.replace("-", "_")):
                    chain[parent.replace("_", "-")] = None
            if script is not None and end <= 2 and _is_written_in_several_scripts(language):
                _with_script(chain, subtags[:end], script)
    chain[canonical(default) or default] = None
    return tuple(chain)


def best(locale: str | None, default: str, available: Collection[str]) -> str | None:
    """The locale of `available`, as it is written there, that serves `locale` best; None without even `default`.

    Tags with the same meaning are equal (`iw` and `he`; `zh-TW` and `zh-Hant-TW`). If a reader names a language without
    a region and nothing nearer is there, the content of a region serves: of the one where most readers live (`pt` gets
    `pt-BR`), else of a larger area (`es-419`), else the first by name.
    """
    by_tag = {(canonical(name) or name).lower(): name for name in sorted(available, reverse=True)}
    tag = canonical(locale) if locale else None
    if tag is not None:
        by_meaning = {_maximal(known): name for known, name in reversed(by_tag.items())}
        language = tag.split("-")[0]
        for each in fallbacks(tag, default):
            if each.split("-")[0] != language:
                continue
            choice = by_tag.get(each.lower())
            if choice is None and (each == tag or _names_script(each)):
                choice = by_meaning.get(_maximal(each))
            if choice is not None:
                return choice
        choice = _related(tag, by_tag) or _of_a_region(tag, by_tag)
        if choice is not None:
            return choice
    return by_tag.get((canonical(default) or default).lower())


@lru_cache(maxsize=4096)
def direction(locale: str) -> Direction:
    """`rtl` for a locale whose script runs from right to left, `ltr` for all others."""
    tag = canonical(locale)
    return "rtl" if tag is not None and _script(tag) in _RIGHT_TO_LEFT else "ltr"


def _with_script(chain: dict[str, None], subtags: list[str], script: str) -> None:
    """Add the forms of a tag that name its script, unless the tag names it already."""
    if len(subtags) > 1 and len(subtags[1]) == 4:
        return
    chain["-".join([subtags[0], script, *subtags[1:]])] = None
    chain[f"{subtags[0]}-{script}"] = None


def _names_script(tag: str) -> bool:
    subtags = tag.split("-")
    return len(subtags) > 1 and len(subtags[1]) == 4 and subtags[1].isalpha()


def _related(tag: str, by_tag: Mapping[str, str]) -> str | None:
    """The content in a language that readers of this one understand as their own."""
    language, _, rest = tag.partition("-")
    for other in _RELATED.get(language, ()):
        name = by_tag.get(f"{other}-{rest}".lower()) or by_tag.get(other) or _of_a_region(other, by_tag)
        if name is not None:
            return name
    return None


def _of_a_region(tag: str, by_tag: Mapping[str, str]) -> str | None:
    """The content of some region in the language and script of a tag that names no region."""
    language, script, region, _ = _parts(tag)
    if region:
        return None
    wanted = _maximal("-".join(part for part in (language, script) if part))
    near: list[tuple[bool, bool, str]] = []
    for known in by_tag:
        own = _maximal(known)
        if own[:2] == wanted[:2] and _parts(known)[2]:
            near.append((own[2] != wanted[2], not own[2].isdigit(), known))
    return by_tag[min(near)[2]] if near else None


def _parts(tag: str) -> tuple[str, str, str, str]:
    """Language, script, region and rest of a tag; "" for each that it does not name."""
    match = _TAG.fullmatch(tag.lower())
    if match is None:
        return tag, "", "", ""
    script, region = match["script"] or "", match["region"] or ""
    return match["language"], script.title(), region.upper(), match["variants"] + match["rest"]


@lru_cache(maxsize=4096)
def _maximal(tag: str) -> tuple[str, str, str, str]:
    """The parts of a tag; CLDR's likely subtags stand for those that it does not name."""
    language, script, region, rest = _parts(tag)
    likely = get_global("likely_subtags")
    for known in (f"{language}_{script}_{region}", f"{language}_{region}", f"{language}_{script}", language):
        full = likely.get(known)
        if full is not None:
            parts = full.split("_")
            return parts[0], script or parts[1], region or parts[-1], rest
    return language, script, region, rest


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
    """Whether the language is written in different scripts in different regions."""
    own = _script(language)
    prefix = language + "_"
    return any(
        _script(name.replace("_", "-")) != own
        for name in get_global("likely_subtags")
        if name.startswith(prefix) and len(name) - len(prefix) in {2, 3}
    )
