"""Paths: the text between two slashes is one name, whatever characters it has.

An id is the sender's own text, percent-encoded in a URL. A `%2F` in it is part of the id, never a separator. So a path
is split before it is decoded (RFC 3986, section 2.4). FastAPI matches decoded paths; `path_for_matching` gives it one
in which slashes and percent signs inside names are still encoded, and StrictRoute decodes the names after the match. So
no two ids share a path, and no id can reach a resource below another id.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, unquote_to_bytes

from tidings.api.problems import Refused

_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_DOTS = frozenset({".", ".."})


def path_for_matching(raw: bytes) -> str:
    """The path that routes are matched against. Raises Refused (400) unless `raw` is well escaped UTF-8."""
    if _BAD_ESCAPE.search(raw):
        raise Refused(400, "malformed_path", "the path holds a % that escapes nothing; write it as %25")
    try:
        names = [unquote_to_bytes(name).decode() for name in raw.split(b"/")]
    except UnicodeDecodeError as error:
        raise Refused(400, "malformed_path", "the path is not UTF-8 when its escapes are decoded") from error
    return "/".join(name.replace("%", "%25").replace("/", "%2F") for name in names)


def check_query(raw: bytes) -> None:
    """Raises Refused (400) unless the query string is well escaped UTF-8: FastAPI would read other values from it."""
    if _BAD_ESCAPE.search(raw):
        raise Refused(400, "malformed_query", "the query string holds a % that escapes nothing; write it as %25")
    try:
        unquote_to_bytes(raw).decode()
    except UnicodeDecodeError as error:
        detail = "the query string is not UTF-8 when its escapes are decoded"
        raise Refused(400, "malformed_query", detail) from error


def refuse_nul(path: str, query: bytes) -> None:
    """Raises Refused (400) if the URL holds a NUL character, which PostgreSQL cannot store."""
    if "\0" in path or b"%00" in query:
        raise Refused(400, "nul_character", "the URL holds a NUL character (%00); leave it out")


def decoded_names(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of a matched path, with slashes and percent signs decoded."""
    return {
        name: value.replace("%2F", "/").replace("%25", "%") if isinstance(value, str) else value
        for name, value in parameters.items()
    }


def segment(name: str) -> str:
    """A name, percent-encoded for a path."""
    return quote(name, safe="")


def is_addressable(name: str) -> bool:
    """Whether a path can hold the name. `.` and `..` it cannot: clients resolve them, even when they are escaped."""
    return name not in _DOTS
