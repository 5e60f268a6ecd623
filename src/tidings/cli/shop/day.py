"""The shop's day: who orders what and when, and the notifications that follow."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import date, timedelta
from typing import Any

from msgspec import Struct

from tidings.cli.shop import templates
from tidings.cli.shop.people import Person

MINUTES = 24 * 60
_OFFERS_AT = 9 * 60
_BY_HOUR = (2, 1, 1, 1, 1, 2, 4, 7, 9, 10, 10, 11, 13, 12, 10, 9, 10, 12, 15, 18, 20, 17, 10, 5)
_THINGS = (
    ("Espresso cup", 9.9), ("Teapot", 24.0), ("Linen apron", 32.5), ("Bread knife", 41.0), ("Chopping board", 27.9),
    ("Cast-iron pan", 54.0), ("Spice mill", 22.5), ("Salad bowl", 36.0), ("Oven mitts", 14.9), ("Cake tin", 18.0),
)  # fmt: skip
_CARRIERS = ("DHL", "UPS", "Yamato", "Correios", "Aramex", "La Poste")
_ITEM_PRICES = {"JPY": 160, "KRW": 1450, "BRL": 6, "INR": 90, "EGP": 52, "MXN": 20, "ARS": 1400, "TRY": 45}
_OFFER_SHARE = 0.4


class Event(Struct, frozen=True):
    """A notification that the shop sends at `minute` of the day. `batched`: in one request with others."""

    minute: int
    batched: bool
    body: dict[str, Any]


def plan(people: Sequence[Person], orders: int, seed: int, today: date) -> list[Event]:
    """The events of `today` in order, the same for the same arguments. `orders` of them are new orders."""
    chance = random.Random(f"{seed} day")  # noqa: S311 - the same day for the same seed
    events = []
    for number in range(orders):
        person = chance.choice(people)
        order = _order(f"A-{100_000 + number}", person, chance)
        events.append(Event(_minute(chance), False, _body(person, templates.ORDER_CONFIRMATION, {"order": order})))
    for number in range(round(orders * 0.9)):
        # Parcels that leave today were ordered yesterday, by other people than today's customers.
        person = chance.choice(people)
        order = _order(f"A-{90_000 + number}", person, chance)
        parcel = _parcel(today, chance)
        data = {"order": order, "parcel": parcel}
        events.append(Event(_scan(chance, 7, 20), True, _body(person, templates.ORDER_SHIPPED, data)))
    for number in range(round(orders * 0.85)):
        person = chance.choice(people)
        order = _order(f"A-{80_000 + number}", person, chance)
        events.append(Event(_scan(chance, 8, 21), True, _body(person, templates.ORDER_DELIVERED, {"order": order})))
    for _ in range(round(orders * 0.25)):
        code = {"code": f"{chance.randrange(10**6):06}", "minutes": 10}
        events.append(Event(_minute(chance), False, _body(chance.choice(people), templates.PASSWORD_CODE, code)))
    events += _offers(people, today, chance)
    return sorted(events, key=lambda event: event.minute)


def _offers(people: Sequence[Person], today: date, chance: random.Random) -> list[Event]:
    until = (today + timedelta(days=6)).isoformat()
    chosen = chance.sample(people, round(len(people) * _OFFER_SHARE))
    return [
        Event(
            _OFFERS_AT,
            True,
            _body(person, templates.WEEKLY_OFFERS, {"offers": _picks(person, chance), "until": until}),
        )
        for person in chosen
    ]


def _picks(person: Person, chance: random.Random) -> list[dict[str, str]]:
    picked = chance.sample(_THINGS, 3)
    currency = person.country.currency
    return [{"title": name, "price": _price(person, price), "currency": currency} for name, price in picked]


def _body(person: Person, name: str, data: dict[str, Any]) -> dict[str, Any]:
    template = next(template for template in templates.TEMPLATES if template.name == name)
    declared = {key: value for key, value in {"name": person.name, **data}.items() if key in template.variables}
    return {
        "to": {"user_id": person.user_id},
        "template": name,
        "data": declared,
        "category": template.category,
        "priority": template.priority,
    }


def _order(number: str, person: Person, chance: random.Random) -> dict[str, Any]:
    items = []
    total = 0.0
    for name, price in chance.sample(_THINGS, chance.choices((1, 2, 3), (6, 3, 1))[0]):
        quantity = chance.choices((1, 2, 4), (7, 2, 1))[0]
        local = _price(person, price)
        total += float(local) * quantity
        items.append({"name": name, "quantity": quantity, "price": local})
    return {"number": number, "items": items, "total": _written(person, total), "currency": person.country.currency}


def _price(person: Person, price: float) -> str:
    return _written(person, price * _ITEM_PRICES.get(person.country.currency, 1))


def _written(person: Person, amount: float) -> str:
    return f"{amount:.0f}" if person.country.currency in {"JPY", "KRW"} else f"{amount:.2f}"


def _parcel(today: date, chance: random.Random) -> dict[str, str]:
    day = (today + timedelta(days=chance.randrange(1, 4))).isoformat()
    return {"carrier": chance.choice(_CARRIERS), "tracking": f"{chance.getrandbits(48):012X}", "day": day}


def _scan(chance: random.Random, first: int, last: int) -> int:
    """A minute of the warehouse's scans, which come every ten minutes from the hour `first` to the hour `last`."""
    return chance.randrange(first * 60, last * 60, 10)


def _minute(chance: random.Random) -> int:
    return chance.choices(range(24), _BY_HOUR)[0] * 60 + chance.randrange(60)
