"""Request bodies: read up to a limit, and decoded strictly."""

from __future__ import annotations

import codecs
from typing import Any

import msgspec
from starlette.types import Message, Receive

from tidings.api.problems import Refused
from tidings.model.errors import Invalid
from tidings.pipeline.compose import requests

MOST_DISCARDED_BYTES = 64 * 1024 * 1024
"""How much of a body that is too large is read and thrown away, so that the client gets to see the answer."""

_JSON = b"application/json"


class ClientLeft(Exception):
    """The client closed the connection before its request was complete. Nobody is left to be answered."""


class BodyMemory:
    """A budget of bytes for all bodies that arrive in parts, of all connections together."""

    def __init__(self, size_bytes: int) -> None:
        self._free_bytes = size_bytes

    def reserve(self, size_bytes: int) -> None:
        """Raises Refused (503) when so much is not free."""
        if size_bytes > self._free_bytes:
            detail = "too many large requests are under way; send it again in a moment"
            raise Refused(503, "unavailable", detail, headers=[(b"retry-after", b"1"), (b"connection", b"close")])
        self._free_bytes -= size_bytes

    def release(self, size_bytes: int) -> None:
        """Free what was reserved."""
        self._free_bytes += size_bytes


async def read(receive: Receive, headers: dict[bytes, bytes], limit_bytes: int, memory: BodyMemory) -> bytes:
    """The whole body, of at most `limit_bytes`.

    Raises:
        Refused: 413 when it is larger, after the rest was read and discarded (with `Connection: close` if the rest was
            too much for that); 503 when `memory` is used up.
        ClientLeft: the connection ended first.
    """
    announced = headers.get(b"content-length")
    # A length of more than 18 digits was refused by the server already, or is too large in any case.
    if announced is not None and (len(announced) > 18 or (announced.isdigit() and int(announced) > limit_bytes)):
        # A client that asks first (RFC 9110 section 10.1.1) is refused before it sends the body.
        asks_first = headers.get(b"expect", b"").lower() == b"100-continue"
        raise _too_large(limit_bytes, closing=asks_first or not await _discard(receive, 0))
    message = await receive()
    body = _part(message)
    if not message.get("more_body", False) and len(body) <= limit_bytes:
        return body
    return await _join_parts(receive, message, limit_bytes, memory)


async def _join_parts(receive: Receive, message: Message, limit_bytes: int, memory: BodyMemory) -> bytes:
    """The body whose first part is in `message`."""
    parts = [_part(message)]
    size_bytes = reserved_bytes = 0
    try:
        while (size_bytes := size_bytes + len(parts[-1])) <= limit_bytes:
            memory.reserve(size_bytes - reserved_bytes)
            reserved_bytes = size_bytes
            if not message.get("more_body", False):
                return b"".join(parts)
            message = await receive()
            parts.append(_part(message))
    finally:
        memory.release(reserved_bytes)
    parts.clear()
    finished = not message.get("more_body", False) or await _discard(receive, size_bytes)
    raise _too_large(limit_bytes, closing=not finished)


def check_type(headers: dict[bytes, bytes]) -> None:
    """Raises Refused (415) if the headers say that the body is not JSON, or compressed."""
    media_type = headers.get(b"content-type")
    if media_type is not None and media_type != _JSON:
        name = media_type.partition(b";")[0].strip().lower()
        if name != _JSON and not (name.startswith(b"application/") and name.endswith(b"+json")):
            shown = name[:80].decode("latin-1")
            raise Refused(
                415,
                "unsupported_media_type",
                f"the body must be JSON; send it with Content-Type: application/json instead of {shown!r}",
                headers=[(b"accept", _JSON)],
            )
    encoding = headers.get(b"content-encoding")
    if encoding is not None and encoding.strip().lower() != b"identity":
        raise Refused(
            415,
            "unsupported_content_encoding",
            "send the body uncompressed, without Content-Encoding",
            headers=[(b"accept-encoding", b"identity")],
        )


def check_encoding(body: bytes) -> None:
    """Raises Invalid unless the body is UTF-8 without a byte order mark (RFC 8259 section 8.1)."""
    if not body.isascii():
        if body.startswith(codecs.BOM_UTF8):
            raise Invalid("malformed_json", "the body begins with a byte order mark (U+FEFF); send it without")
        try:
            body.decode()
        except UnicodeDecodeError as error:
            raise Invalid("malformed_json", f"the body is not UTF-8 at byte {error.start}") from error


def decode(body: bytes) -> Any:
    """The JSON value in the body.

    If a name is repeated in an object, the last value counts, here and on the hot routes (RFC 8259, section 4, leaves
    this open). Refusing repeated names would take a second, slower parser: 4.7 µs instead of 0.3 for a usual
    notification. It would not make anything safer, because a single decoder reads every body.

    Raises:
        Invalid: not JSON in UTF-8, nested too deeply, or with a NUL character (which PostgreSQL's text cannot hold).
    """
    check_encoding(body)
    try:
        value = msgspec.json.decode(body)
    except RecursionError as error:
        raise _too_deep() from error
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Invalid("malformed_json", f"the body is not valid JSON in UTF-8: {error}") from error
    # Only now: in text that is not JSON, finding the strings may take quadratic time.
    if requests.is_too_deep(body):
        raise _too_deep()
    if b"\\u0000" in body and requests.has_nul(value):
        raise Invalid("nul_character", "NUL characters (\\u0000) cannot be stored; leave them out")
    return value


def _too_deep() -> Invalid:
    return Invalid("too_deep", f"the JSON is nested deeper than {requests.DEEPEST} levels")


async def _discard(receive: Receive, size_bytes: int) -> bool:
    """Read the rest of the body and throw it away; False if it is larger than `MOST_DISCARDED_BYTES`.

    `size_bytes` have been read before.
    """
    more = True
    while more and size_bytes <= MOST_DISCARDED_BYTES:
        message = await receive()
        size_bytes += len(_part(message))
        more = message.get("more_body", False)
    return not more


def _part(message: Message) -> bytes:
    if message["type"] == "http.disconnect":
        raise ClientLeft
    part: bytes = message.get("body", b"")
    return part


def _too_large(limit_bytes: int, *, closing: bool) -> Refused:
    headers = [(b"connection", b"close")] if closing else []
    detail = f"the body may have at most {limit_bytes} bytes; send less at once"
    return Refused(413, "too_large", detail, headers=headers)
