"""The shop's people: realistic names, numbers and preferences from twenty countries, the same for the same seed."""

from __future__ import annotations

import importlib
import random
from collections.abc import Iterator
from typing import Any

import phonenumbers
from msgspec import Struct

from tidings.cli.hints import demo_command
from tidings.cli.plain import CannotGoOn
from tidings.cli.shop.countries import COUNTRIES, Country

_MAIL = ("example.com", "example.org", "example.net", "post.example", "mail.example")
_NIGHTS = (("22:00", "07:00"), ("23:00", "08:00"), ("21:30", "06:30"), ("00:00", "09:00"))
_FREE_DIGITS = 6
_TRIES = 50


class Person(Struct, frozen=True):
    """A person; `body` is the person as an item of `POST /v1/users/batch`."""

    user_id: str
    country: Country
    body: dict[str, Any]

    @property
    def name(self) -> str:
        """The name by which the shop addresses the person."""
        return str(self.body["name"])


def people(count: int, seed: int) -> Iterator[Person]:
    """`count` people; the same ones for the same seed.

    Raises:
        CannotGoOn: the name generator is not installed.
    """
    chance = random.Random(seed)  # noqa: S311 - the same people for the same seed
    names = {country.names: _names(country.names, seed) for country in COUNTRIES}
    countries = chance.choices(COUNTRIES, [country.share for country in COUNTRIES], k=count)
    for number, country in enumerate(countries, 1):
        generator = names[country.names]
        parts = [generator.first_name(), generator.last_name()]
        if country.family_first:
            parts.reverse()
        yield _person(number, country, " ".join(parts), chance)


def phone_number(country: Country, chance: random.Random) -> str:
    """A mobile number of the country, valid by its numbering plan, in E.164."""
    example = phonenumbers.example_number_for_type(country.region, phonenumbers.PhoneNumberType.MOBILE)
    if example is None:
        raise LookupError(f"there is no example of a mobile number in {country.region}")
    stem = str(example.national_number)[:-_FREE_DIGITS]
    for _ in range(_TRIES):
        digits = f"{chance.randrange(10**_FREE_DIGITS):0{_FREE_DIGITS}}"
        number = phonenumbers.PhoneNumber(country_code=example.country_code, national_number=int(stem + digits))
        if phonenumbers.is_valid_number_for_region(number, country.region):
            return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
    return phonenumbers.format_number(example, phonenumbers.PhoneNumberFormat.E164)


def _names(locale: str, seed: int) -> Any:
    try:
        faker = importlib.import_module("faker")
    except ImportError as error:
        raise CannotGoOn(
            f"the demo needs the package faker, for names. Run {demo_command(None, installed=False)}"
        ) from error
    generator = faker.Faker(locale)
    generator.seed_instance(f"{locale} {seed}")
    return generator


def _person(number: int, country: Country, name: str, chance: random.Random) -> Person:
    user_id = f"u{number:06}"
    body: dict[str, Any] = {"user_id": user_id, "name": name, "timezone": chance.choice(country.timezones)}
    first, *others = country.locales
    body["locale"] = first if not others or chance.random() < 0.75 else chance.choice(others)
    if chance.random() < 0.985:
        body["email"] = _email(number, chance)
    if chance.random() < 0.96:
        body["phone"] = phone_number(country, chance)
    devices = chance.choices((0, 1, 2), (28, 60, 12))[0]
    if devices:
        body["devices"] = [_device(user_id, index, chance) for index in range(devices)]
    preferences = _preferences(chance)
    if preferences:
        body["preferences"] = preferences
    return Person(user_id, country, body)


def _email(number: int, chance: random.Random) -> str:
    """An email address, mostly a good one. The words make the sandbox bounce it, open it, and so on."""
    word = chance.choices(("", "bounce", "open", "click", "defer", "spam", "throttled"), (800, 6, 120, 50, 20, 2, 2))[0]
    return f"{word or 'person'}.{number}@{chance.choice(_MAIL)}"


def _device(user_id: str, index: int, chance: random.Random) -> str:
    word = chance.choices(("", "unregistered-", "unavailable-"), (985, 12, 3))[0]
    return f"{word}{user_id}-{index}-{chance.getrandbits(64):016x}"


def _preferences(chance: random.Random) -> dict[str, Any]:
    wants: dict[str, Any] = {}
    opted_out: dict[str, Any] = {}
    marketing = chance.choices(("everything", "email", "push", ""), (12, 7, 9, 72))[0]
    if marketing:
        opted_out["marketing"] = "all" if marketing == "everything" else [marketing]
    if chance.random() < 0.08:
        opted_out["orders"] = ["sms"]
    if opted_out:
        wants["opted_out"] = opted_out
    if chance.random() < 0.15:
        start, end = chance.choice(_NIGHTS)
        wants["quiet_hours"] = {"start": start, "end": end}
    if chance.random() < 0.015:
        wants["muted"] = True
    return wants
