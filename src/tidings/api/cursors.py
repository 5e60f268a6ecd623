"""Cursors: the position at which a listing goes on. Opaque to callers, and valid only for its tenant and listing."""

from __future__ import annotations

import base64
import binascii
import hashlib

from tidings.model.errors import Invalid

_CHECKSUM_BYTES = 6
_LONGEST_CHARS = 4096


def encode(tenant: str, listing: str, position: str) -> str:
    """The cursor for a position in a tenant's listing."""
    body = position.encode()
    return base64.urlsafe_b64encode(_checksum(tenant, listing, body) + body).rstrip(b"=").decode()


def decode(tenant: str, listing: str, cursor: str | None) -> str | None:
    """The position in `cursor`; None without one.

    The checksum detects cursors that were cut, altered or taken from another listing. It needs no secret: a position
    reveals and permits nothing that the listing itself does not.

    Raises:
        Invalid: `invalid_cursor`.
    """
    if cursor is None:
        return None
    if len(cursor) > _LONGEST_CHARS:
        raise invalid()
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        checksum, body = raw[:_CHECKSUM_BYTES], raw[_CHECKSUM_BYTES:]
        position = body.decode()
    except (binascii.Error, ValueError) as error:
        raise invalid() from error
    if checksum != _checksum(tenant, listing, body) or encode(tenant, listing, position) != cursor:
        raise invalid()
    return position


def _checksum(tenant: str, listing: str, body: bytes) -> bytes:
    return hashlib.blake2b(f"{tenant}\0{listing}\0".encode() + body, digest_size=_CHECKSUM_BYTES).digest()


def invalid() -> Invalid:
    """The refusal of a cursor that the listing did not give out."""
    return Invalid("invalid_cursor", "this cursor was not given out by this listing; start again without a cursor")
