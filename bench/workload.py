"""The workload: the same users, texts and requests for Tidings and for the peer."""

from __future__ import annotations

import json

from msgspec import Struct

USERS = 10_000
BATCH = 500
"""Notifications in one batch request."""
CATEGORY = "orders"
REFUSED_CATEGORY = "marketing"
"""Every third user has opted out of this category. No load uses it, so each notification arrives and is counted."""

LOCALES = ("en", "de", "fr", "pt-BR")
Texts = dict[str, tuple[str, str]]
"""By locale: subject and body."""

ORDER: Texts = {
    "en": ("Order {{ order }}", "Hello {{ name }}, your order {{ order }} of {{ count }} items ({{ total }}) is sent."),
    "de": (
        "Bestellung {{ order }}",
        "Hallo {{ name }}, Ihre Bestellung {{ order }} ({{ count }} Artikel, {{ total }}).",
    ),
    "fr": (
        "Commande {{ order }}",
        "Bonjour {{ name }}, votre commande {{ order }} ({{ count }} articles, {{ total }}).",
    ),
    "pt-BR": ("Pedido {{ order }}", "Olá {{ name }}, o seu pedido {{ order }} ({{ count }} itens, {{ total }})."),
}
NEWS: Texts = {
    "en": ("New: {{ product }}", "From {{ day }} on you find {{ product }} in our shop, from {{ price }}."),
    "de": ("Neu: {{ product }}", "Ab {{ day }} finden Sie {{ product }} in unserem Laden, ab {{ price }}."),
    "fr": ("Nouveau : {{ product }}", "À partir du {{ day }}, vous trouverez {{ product }} dès {{ price }}."),
    "pt-BR": ("Novo: {{ product }}", "A partir de {{ day }}, você encontra {{ product }} por {{ price }}."),
}


class Person(Struct, frozen=True):
    """A user. `opted_out` is about REFUSED_CATEGORY."""

    user_id: str
    name: str
    email: str
    phone: str
    locale: str
    opted_out: bool


def people() -> list[Person]:
    """Return the users, who are stored before the measurement."""
    return [
        Person(
            user_id=f"user-{number}",
            name=f"Person {number}",
            email=f"person{number}@example.com",
            phone=f"+1415555{number:04d}",
            locale=LOCALES[number % len(LOCALES)],
            opted_out=number % 3 == 0,
        )
        for number in range(USERS)
    ]


class Mode(Struct, frozen=True):
    """How notifications enter and leave the system.

    `batch` is the number in one request (0: one alone, on the route for single notifications). `data` is JSON with the
    load generator's placeholders. With `personal` content each notification is a vendor request of its own.
    """

    name: str
    template: str
    channel: str
    batch: int
    personal: bool
    texts: Texts
    data: str

    @property
    def variables(self) -> list[str]:
        """The names in `data`."""
        return list(json.loads(self.data))

    @property
    def item(self) -> str:
        """The JSON of one notification, with the load generator's placeholders."""
        to = '{"user_id":"@user@"}'
        return f'{{"to":{to},"template":"{self.template}","data":{self.data},"category":"{CATEGORY}"}}'


_ORDER_DATA = '{"name":"Person @index@","order":"ref-@index@","count":3,"total":"49.90 EUR"}'
_NEWS_DATA = '{"product":"Linen shirts","day":"12.5.","price":"29.90 EUR"}'

SINGLE = Mode("single", "order", "sms", 0, True, ORDER, _ORDER_DATA)
BATCHED = Mode("batched", "news", "email", BATCH, False, NEWS, _NEWS_DATA)
PERSONAL = Mode("personal", "order-mail", "email", BATCH, True, ORDER, _ORDER_DATA)
MODES = (SINGLE, BATCHED, PERSONAL)
