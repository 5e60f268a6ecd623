"""Cursors: where a listing goes on. Opaque to callers, and bound to the listing and tenant that they came from."""

from __future__ import annotations

import base64
import binascii
import hashlib

from tidings.model.errors import Invalid

_CHECK = 6
_LONGEST = 4096


def seal(tenant: str, listing: str, position: str) -> str:
    """A cursor that says `position` in `listing` of `tenant`."""
    body = position.encode()
    return base64.urlsafe_b64encode(_check(tenant, listing, body) + body).rstrip(b"=").decode()


def unseal(tenant: str, listing: str, cursor: str | None) -> str | None:
    """The position in `cursor`; None without one.

    The check is no secret (a position reveals and permits nothing that the listing itself does not): it tells a cursor
    that was cut, altered or taken from elsewhere from one that we wrote.

    Raises:
        Invalid: `invalid_cursor`.
    """
    if cursor is None:
        return None
    if len(cursor) > _LONGEST:
        raise bad()
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        check, body = raw[:_CHECK], raw[_CHECK:]
        position = body.decode()
    except (binascii.Error, ValueError) as error:
        raise bad() from error
    if check != _check(tenant, listing, body) or seal(tenant, listing, position) != cursor:
        raise bad()
    return position


def _check(tenant: str, listing: str, body: bytes) -> bytes:
    return hashlib.blake2b(f"{tenant}\0{listing}\0".encode() + body, digest_size=_CHECK).digest()


def bad() -> Invalid:
    """The refusal of a cursor that the listing did not give out."""
    return Invalid("invalid_cursor", "this cursor was not given out by this listing; start again without a cursor")
