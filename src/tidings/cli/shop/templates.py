"""The shop's five templates, built from the texts of each language."""

from __future__ import annotations

import tomllib
from functools import cache
from importlib.resources import files
from typing import Any

from msgspec import Struct

ORDER_CONFIRMATION = "order-confirmation"
ORDER_SHIPPED = "order-shipped"
ORDER_DELIVERED = "order-delivered"
PASSWORD_CODE = "password-code"  # noqa: S105 - a template's name
WEEKLY_OFFERS = "weekly-offers"

LANGUAGES = ("en", "de", "es", "fr", "pt", "ar", "ja")
_RIGHT_TO_LEFT = frozenset({"ar"})
_SHOP = "https://shop.example"

_ITEMS = (
    "{% for item in order['items'] %}"
    "<div>{{ item.quantity }} × {{ item.name }} · {{ item.price|currency(order.currency) }}</div>"
    "{% endfor %}"
)
_OFFERS = (
    "{% for offer in offers %}"
    "<div><b>{{ offer.title }}</b> · {{ offer.price|currency(offer.currency) }}</div>"
    "{% endfor %}"
)
_ORDER_EXAMPLE = {
    "number": "A-1001",
    "items": [{"name": "Espresso cup", "quantity": 2, "price": "9.90"}],
    "total": "19.80",
    "currency": "EUR",
}
_NAME = {"description": "how the person is addressed", "example": "Ada"}
_ORDER = {"description": "the order: number, total, currency, items", "example": _ORDER_EXAMPLE}
_LINKS = {
    ORDER_CONFIRMATION: _SHOP + "/orders/{{ order.number }}",
    ORDER_SHIPPED: _SHOP + "/parcels/{{ parcel.tracking }}",
    ORDER_DELIVERED: _SHOP + "/orders/{{ order.number }}",
    WEEKLY_OFFERS: _SHOP + "/offers",
}


class ShopTemplate(Struct, frozen=True):
    """A template of the shop. `mjml`: its email is MJML, otherwise plain HTML. `extra` ends the email's text."""

    name: str
    description: str
    category: str
    channels: tuple[str, ...]
    variables: dict[str, dict[str, Any]]
    mjml: bool = True
    extra: str = ""
    priority: str = "normal"

    def contents(self) -> dict[str, dict[str, dict[str, str]]]:
        """The source text of each channel in each language, as the API takes it."""
        return {
            language: {
                channel: self._content(channel, language, _texts(language)[self.name]) for channel in self.channels
            }
            for language in LANGUAGES
        }

    def _content(self, channel: str, language: str, text: dict[str, Any]) -> dict[str, str]:
        link = _LINKS.get(self.name)
        if channel == "sms":
            return {"text": text["sms"]}
        if channel == "email":
            write = _mjml if self.mjml else _html
            return {
                "subject": text["subject"],
                "html": write(language, text, self.extra, link),
                "text": _plain(text, link),
            }
        content = {"title": text["title"], "body": text["body"]}
        return content if link is None else content | {"link": link}


TEMPLATES = (
    ShopTemplate(
        name=ORDER_CONFIRMATION,
        description="An order was placed",
        category="orders",
        channels=("email", "sms", "push", "inapp"),
        variables={"name": _NAME, "order": _ORDER},
        extra=_ITEMS,
    ),
    ShopTemplate(
        name=ORDER_SHIPPED,
        description="A parcel left the warehouse",
        category="orders",
        channels=("email", "push", "inapp"),
        variables={
            "name": _NAME,
            "order": _ORDER,
            "parcel": {
                "description": "the parcel: carrier, tracking, day",
                "example": {"carrier": "DHL", "tracking": "JD0146", "day": "2026-03-02"},
            },
        },
    ),
    ShopTemplate(
        name=ORDER_DELIVERED,
        description="A parcel arrived",
        category="orders",
        channels=("push", "inapp"),
        variables={"name": _NAME, "order": _ORDER},
    ),
    ShopTemplate(
        name=PASSWORD_CODE,
        description="A code to sign in with",
        category="security",
        channels=("email", "sms"),
        variables={"code": {"example": "493027"}, "minutes": {"example": 10}},
        mjml=False,
        priority="critical",
    ),
    ShopTemplate(
        name=WEEKLY_OFFERS,
        description="What is on offer this week",
        category="marketing",
        channels=("email", "push"),
        variables={
            "name": _NAME,
            "offers": {"example": [{"title": "Teapot", "price": "24.00", "currency": "EUR"}]},
            "until": {"example": "2026-03-08"},
        },
        extra=_OFFERS,
        priority="bulk",
    ),
)

CATEGORIES: dict[str, dict[str, Any]] = {
    "orders": {"description": "Your orders and their way to you"},
    "security": {"critical": True, "description": "Codes and warnings about your account"},
    "marketing": {"description": "Offers and news"},
}


@cache
def _texts(language: str) -> dict[str, dict[str, Any]]:
    return tomllib.loads(files("tidings.cli.shop").joinpath("texts", f"{language}.toml").read_text(encoding="utf-8"))


def _mjml(language: str, text: dict[str, Any], extra: str, link: str | None) -> str:
    direction, side = ("rtl", "right") if language in _RIGHT_TO_LEFT else ("ltr", "left")
    parts = [f'<mj-text font-size="22px" font-weight="bold" align="{side}">{text["heading"]}</mj-text>']
    parts += [f'<mj-text align="{side}">{line}</mj-text>' for line in (*text["lines"], extra) if line]
    if link:
        parts.append(f'<mj-button href="{link}" background-color="#2f6f4f">{text["button"]}</mj-button>')
    return (
        f'<mjml lang="{language}" dir="{direction}"><mj-head><mj-attributes>'
        '<mj-all font-family="Helvetica, Arial, sans-serif" /><mj-text font-size="16px" line-height="1.5" />'
        '</mj-attributes></mj-head><mj-body background-color="#f2f1ec">'
        f'<mj-section background-color="#ffffff" padding="24px" direction="{direction}">'
        f'<mj-column direction="{direction}">{"".join(parts)}</mj-column></mj-section></mj-body></mjml>'
    )


def _html(language: str, text: dict[str, Any], extra: str, link: str | None) -> str:
    direction = "rtl" if language in _RIGHT_TO_LEFT else "ltr"
    paragraphs = "".join(f"<p>{line}</p>" for line in (*text["lines"], extra) if line)
    button = f'<p><a href="{link}">{text["button"]}</a></p>' if link else ""
    return (
        f'<!doctype html><html lang="{language}" dir="{direction}"><body><h1>{text["heading"]}</h1>'
        f"{paragraphs}{button}</body></html>"
    )


def _plain(text: dict[str, Any], link: str | None) -> str:
    lines = [line.replace("<b>", "").replace("</b>", "") for line in text["lines"]]
    return "\n\n".join([text["heading"], *lines, *([f"{text['button']}: {link}"] if link else [])])
