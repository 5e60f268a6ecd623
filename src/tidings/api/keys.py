"""API keys: how they are made, and the digest that is stored instead of the secret."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable

from tidings.model.tenant import ApiKey, Scope

PREFIX = "tk_"
SECRET_BYTES = 32
_SHOWN_CHARS = 11
_SHAPE = re.compile(rb"tk_[A-Za-z0-9_-]{43,}")


def mint(
    tenant: str, scopes: Iterable[Scope], name: str, now: int, randomness: bytes, id: str | None = None
) -> tuple[str, ApiKey]:
    """A new key: the secret, to be shown once, and the key to store.

    `now` is in milliseconds since the epoch; `randomness` is 32 bytes or more from `secrets.token_bytes`. Without `id`
    the key's id is derived from the secret's digest.

    Raises:
        ValueError: too little randomness, or no scope.
    """
    chosen = set(scopes)
    if not chosen:
        raise ValueError("a key needs at least one of the scopes send, read, manage")
    if len(randomness) < SECRET_BYTES:
        raise ValueError(f"a key needs {SECRET_BYTES} random bytes, not {len(randomness)}")
    secret = PREFIX + base64.urlsafe_b64encode(randomness).rstrip(b"=").decode()
    digest = digest_of(secret.encode())
    return secret, ApiKey(
        id=id or f"key_{digest.hex()[:16]}",
        tenant=tenant,
        prefix=secret[:_SHOWN_CHARS],
        digest=digest,
        scopes=tuple(scope for scope in Scope if scope in chosen),
        name=name,
        created_at=now,
    )


def looks_like_one(secret: bytes) -> bool:
    """Whether the secret has the shape that every key has."""
    return _SHAPE.fullmatch(secret) is not None


def digest_of(secret: bytes) -> bytes:
    """The SHA-256 under which a key is stored. The secret has 256 random bits, so no slow hash is needed."""
    return hashlib.sha256(secret).digest()
