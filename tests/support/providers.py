"""Every provider of the registry with its vendor's stand-in, for the conformance tests of providers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from support.fcm import FcmVendor
from support.smtp import SmtpVendor
from support.vendors import InboxVendor, SendgridVendor, TwilioVendor, Vendor, tools_for
from tidings.channels.registry import build, config_of, providers
from tidings.channels.settings import HttpProviderConfig
from tidings.ports.provider import Provider

STAND_INS: dict[str, type[Vendor]] = {
    vendor.name: vendor for vendor in (TwilioVendor, SendgridVendor, FcmVendor, SmtpVendor, InboxVendor)
}
NAMES = sorted(providers())
SHORT = {"timeout": 0.6, "connect_timeout": 0.5}

of_every_provider = pytest.mark.parametrize("name", NAMES)
of_every_vendor = pytest.mark.parametrize("name", [name for name in NAMES if STAND_INS[name].ways])
"""The providers that call a vendor over a network."""
of_every_http_provider = pytest.mark.parametrize(
    "name", [name for name in NAMES if issubclass(config_of(providers()[name]), HttpProviderConfig)]
)


@asynccontextmanager
async def sending(name: str, **more: Any) -> AsyncIterator[tuple[Provider[Any], Any]]:
    """The provider and its vendor's stand-in."""
    vendor = STAND_INS[name]()
    async with vendor.running():
        provider = build(name, vendor.settings(**more), tools_for(vendor.inbox))
        try:
            yield provider, vendor
        finally:
            await provider.close()
