"""Twenty countries, with the languages and timezones of the shop's people there."""

from __future__ import annotations

from msgspec import Struct


class Country(Struct, frozen=True):
    """A country.

    `share` is its weight among the countries. `names` is the locale of the name generator. `locales` are the people's
    languages; three in four have the first one. `family_first` puts the family name before the given name.
    """

    region: str
    share: int
    names: str
    locales: tuple[str, ...]
    timezones: tuple[str, ...]
    currency: str
    family_first: bool = False


COUNTRIES = (
    Country(
        "US", 14, "en_US", ("en-US", "es-US"), ("America/New_York", "America/Chicago", "America/Los_Angeles"), "USD"
    ),
    Country("DE", 10, "de_DE", ("de-DE", "tr-DE", "en-DE"), ("Europe/Berlin",), "EUR"),
    Country("JP", 9, "ja_JP", ("ja-JP",), ("Asia/Tokyo",), "JPY", family_first=True),
    Country("BR", 9, "pt_BR", ("pt-BR",), ("America/Sao_Paulo", "America/Manaus", "America/Fortaleza"), "BRL"),
    Country("GB", 8, "en_GB", ("en-GB",), ("Europe/London",), "GBP"),
    Country("FR", 7, "fr_FR", ("fr-FR", "ar-FR"), ("Europe/Paris",), "EUR"),
    Country("EG", 5, "ar_SA", ("ar-EG", "en-EG"), ("Africa/Cairo",), "EGP"),
    Country("SA", 4, "ar_SA", ("ar-SA", "en-SA"), ("Asia/Riyadh",), "SAR"),
    Country("AE", 3, "ar_SA", ("ar-AE", "en-AE"), ("Asia/Dubai",), "AED"),
    Country("ES", 5, "es_ES", ("es-ES", "ca-ES"), ("Europe/Madrid", "Atlantic/Canary"), "EUR"),
    Country("MX", 5, "es_MX", ("es-MX",), ("America/Mexico_City", "America/Tijuana"), "MXN"),
    Country("AR", 3, "es_AR", ("es-AR",), ("America/Argentina/Buenos_Aires",), "ARS"),
    Country("IT", 4, "it_IT", ("it-IT",), ("Europe/Rome",), "EUR"),
    Country("PT", 2, "pt_PT", ("pt-PT",), ("Europe/Lisbon", "Atlantic/Azores"), "EUR"),
    Country("NL", 3, "nl_NL", ("nl-NL", "en-NL"), ("Europe/Amsterdam",), "EUR"),
    Country("IN", 6, "en_IN", ("en-IN", "hi-IN"), ("Asia/Kolkata",), "INR"),
    Country("KR", 3, "ko_KR", ("ko-KR",), ("Asia/Seoul",), "KRW", family_first=True),
    Country("PL", 3, "pl_PL", ("pl-PL",), ("Europe/Warsaw",), "PLN"),
    Country("TR", 3, "tr_TR", ("tr-TR",), ("Europe/Istanbul",), "TRY"),
    Country("SE", 2, "sv_SE", ("sv-SE",), ("Europe/Stockholm",), "SEK"),
)
