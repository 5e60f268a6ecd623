"""Idempotency keys: their syntax, and what makes two requests the same."""

from __future__ import annotations

import hashlib
import re

from tidings.model.errors import Conflict, Invalid

HEADER = "Idempotency-Key"
MAX_KEY = 255

KEPT_MS = 24 * 3600 * 1000
"""How long a key is remembered; after that it counts as new."""
RESERVATION_LEASE_S = 30.0
"""Age at which a reservation without an answer counts as abandoned: its process died."""
ASK_AGAIN_AFTER_S = 1.0
"""`Retry-After` while the first request with a key is under way: by then it has probably been answered."""

_KEY = re.compile(rf"[!-~]{{1,{MAX_KEY}}}")
_DIGEST_SIZE = 16


def fingerprint(body: bytes, operation: str = "") -> bytes:
    """16 bytes (BLAKE2b) that identify a request: its body, byte for byte, and its operation.

    A body that means the same but is written differently is another request.
    """
    return hashlib.blake2b(operation.encode() + b"\0" + body, digest_size=_DIGEST_SIZE).digest()


def in_flight() -> Conflict:
    """The error for a request whose key belongs to a first request that is still under way."""
    return Conflict(
        "idempotency_in_flight", "the first request with this Idempotency-Key is under way", ASK_AGAIN_AFTER_S
    )


def check_key(text: str) -> str:
    """The key, unchanged. Raises Invalid unless it is 1 to 255 visible ASCII characters."""
    if not _KEY.fullmatch(text):
        raise Invalid(
            "invalid_idempotency_key",
            f"the header {HEADER} holds 1 to {MAX_KEY} visible ASCII characters, such as a UUID",
            HEADER,
        )
    return text
