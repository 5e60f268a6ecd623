"""Paths: what stands between two slashes is one name, whatever is in it.

An id is the sender's own text. In a URL it is percent-encoded, and `%2F` in it is part of the id, never a separator. So
a path is split before it is decoded, as RFC 3986 says (section 2.4). The web framework matches decoded paths; it gets
one in which the slashes and percent signs inside of names are still encoded, and StrictRoute decodes those that it has
matched. So no two ids share a path, and no id reaches what lies below another one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, unquote_to_bytes

from tidings.api.problems import Refused

_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_DOTS = frozenset({".", ".."})


def matched(raw: bytes) -> str:
    """The path of a request's target, as routes are matched by it. Raises Refused (400) for what is no UTF-8."""
    if _BAD_ESCAPE.search(raw):
        raise Refused(400, "malformed_path", "the path holds a % that escapes nothing; write it as %25")
    try:
        names = [unquote_to_bytes(name).decode() for name in raw.split(b"/")]
    except UnicodeDecodeError as error:
        raise Refused(400, "malformed_path", "the path is not UTF-8 when its escapes are decoded") from error
    return "/".join(name.replace("%", "%25").replace("/", "%2F") for name in names)


def check_query(raw: bytes) -> None:
    """Raises Refused (400) for a query string that is no text in UTF-8: its values would be taken for others."""
    if _BAD_ESCAPE.search(raw):
        raise Refused(400, "malformed_query", "the query string holds a % that escapes nothing; write it as %25")
    try:
        unquote_to_bytes(raw).decode()
    except UnicodeDecodeError as error:
        detail = "the query string is not UTF-8 when its escapes are decoded"
        raise Refused(400, "malformed_query", detail) from error


def named(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of a matched path, as they were meant."""
    return {
        name: value.replace("%2F", "/").replace("%25", "%") if isinstance(value, str) else value
        for name, value in parameters.items()
    }


def segment(name: str) -> str:
    """A name as it stands in a path."""
    return quote(name, safe="")


def is_addressable(name: str) -> bool:
    """Whether a path can hold the name: clients take `.` and `..` for directions, even when they are escaped."""
    return name not in _DOTS
