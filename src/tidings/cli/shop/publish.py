"""Puts the shop's categories and templates into a tenant, through the API."""

from __future__ import annotations

from collections.abc import Iterable

from tidings.cli.client import Api, Refused
from tidings.cli.shop.templates import CATEGORIES, ShopTemplate


def declare_categories(api: Api) -> None:
    """Declare the shop's categories that the tenant does not have."""
    known = {category["name"] for category in api.call("GET", "/v1/categories")["categories"]}
    for name, category in CATEGORIES.items():
        if name not in known:
            api.call("PUT", f"/v1/categories/{name}", category)


def publish(api: Api, templates: Iterable[ShopTemplate]) -> None:
    """Create and publish the templates that the tenant does not have. A published one stays as it is."""
    for template in templates:
        try:
            existing = api.call("GET", f"/v1/templates/{template.name}")
        except Refused as refused:
            if refused.status != 404:
                raise
            existing = {"published": None, "latest": _create(api, template)}
        if existing["published"] is None:
            api.call("POST", f"/v1/templates/{template.name}/publish", {"version": existing["latest"]})


def _create(api: Api, template: ShopTemplate) -> int:
    body = {
        "name": template.name,
        "description": template.description,
        "default_locale": "en",
        "variables": template.variables,
        "contents": template.contents(),
    }
    version: int = api.call("POST", "/v1/templates", body)["version"]
    return version
