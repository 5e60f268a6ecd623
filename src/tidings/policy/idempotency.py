"""Idempotency keys: their syntax, and what makes two requests the same."""

from __future__ import annotations

import hashlib
import re

from tidings.model.errors import Invalid

HEADER = "Idempotency-Key"
MAX_KEY = 255

KEPT_MS = 24 * 3600 * 1000
"""How long a key is remembered; after that it counts as new."""

_KEY = re.compile(rf"[!-~]{{1,{MAX_KEY}}}")
_DIGEST_SIZE = 16


def fingerprint(body: bytes, operation: str = "") -> bytes:
    """16 bytes (BLAKE2b) that identify a request: its body, byte for byte, and its operation.

    A body that means the same but is written differently is another request.
    """
    return hashlib.blake2b(operation.encode() + b"\0" + body, digest_size=_DIGEST_SIZE).digest()


def check_key(text: str) -> str:
    """The key, unchanged. Raises Invalid unless it is 1 to 255 visible ASCII characters."""
    if not _KEY.fullmatch(text):
        raise Invalid(
            "invalid_idempotency_key",
            f"the header {HEADER} holds 1 to {MAX_KEY} visible ASCII characters, such as a UUID",
            HEADER,
        )
    return text
