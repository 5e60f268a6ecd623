"""Tenants and their API keys."""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct

CANARY_TENANT = "tidings-canary"
"""The tenant of the notifications that Tidings sends to itself (pipeline/canary.py); nobody has a key for it."""


class Scope(StrEnum):
    """What an API key may do."""

    SEND = "send"
    READ = "read"
    MANAGE = "manage"


class Tenant(Struct, frozen=True):
    """A product or team that sends. `id` is a slug of its own choosing."""

    id: str
    name: str
    created_at: int = 0


class ApiKey(Struct, frozen=True):
    """An API key as stored: the secret itself is shown once, then only its SHA-256 `digest` is known.

    `prefix` is the start of the secret, for recognising it in a list.
    """

    id: str
    tenant: str
    prefix: str
    digest: bytes
    scopes: tuple[Scope, ...]
    name: str = ""
    created_at: int = 0
    revoked_at: int | None = None
