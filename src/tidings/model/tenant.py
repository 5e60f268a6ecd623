"""Tenants and their API keys."""

from __future__ import annotations

import math
from enum import StrEnum

from msgspec import Struct

CANARY_TENANT = "tidings-canary"
"""The tenant of the notifications that Tidings sends to itself (pipeline/rounds/canary.py); nobody has a key for it."""


class Scope(StrEnum):
    """What an API key may do."""

    SEND = "send"
    READ = "read"
    MANAGE = "manage"


class Rate(Struct, frozen=True, gc=False):
    """At most `per_second` over time (0: no limit) and `burst` at once."""

    per_second: float
    burst: int

    @classmethod
    def of(cls, per_second: float, burst: int | None = None) -> Rate:
        """A rate; without `burst` it lets through one second's worth at once."""
        return cls(per_second, max(1, math.ceil(per_second)) if burst is None else burst)


class Rates(Struct, frozen=True, gc=False, omit_defaults=True):
    """How much may be asked of the API; None: the limit in the settings."""

    requests: Rate | None = None
    notifications: Rate | None = None


class DefaultRates(Struct, frozen=True, gc=False):
    """The limits of each tenant, and of each key, that has none of its own."""

    tenant: Rates = Rates()
    key: Rates = Rates()


class Tenant(Struct, frozen=True):
    """A product or team that sends. `id` is a slug that it chose. `limits` bound all its keys together."""

    id: str
    name: str
    created_at: int = 0
    limits: Rates = Rates()


class ApiKey(Struct, frozen=True):
    """An API key as stored: the secret itself is shown once, then only its SHA-256 `digest` is known.

    `prefix` is the start of the secret, for recognising it in a list. `tenant_limits` are its tenant's limits; looking
    up a key fills them in, they are not stored with it.
    """

    id: str
    tenant: str
    prefix: str
    digest: bytes
    scopes: tuple[Scope, ...]
    name: str = ""
    created_at: int = 0
    revoked_at: int | None = None
    limits: Rates = Rates()
    tenant_limits: Rates = Rates()
