"""Keeps an email's headers and envelope clean, so that no content can add a header or a recipient.

Facts: RFC 5322 sections 2.2 (no line ends inside a field) and 3.4.1 (addr-spec), RFC 5321 section 4.5.3.1 (lengths).
"""

from __future__ import annotations

import re

_BREAKS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")
_FORBIDDEN = re.compile(r"[\x00-\x20\x7f-\xa0\u2028\u2029\ud800-\udfff<>\"(),:;@\[\]\\]")
_LONGEST_LOCAL = 64
_LONGEST_DOMAIN = 255


def one_line(text: str) -> str:
    """`text` with each run of control characters and line ends replaced by one space."""
    return _BREAKS.sub(" ", text).strip() if _BREAKS.search(text) else text


def split_address(address: str) -> tuple[str, str] | None:
    """The local part and the domain; None unless the text is one plain address, without a quoted local part."""
    local, at, domain = address.rpartition("@")
    if not at or not local or not domain or len(local) > _LONGEST_LOCAL or len(domain) > _LONGEST_DOMAIN:
        return None
    if _FORBIDDEN.search(local) or _FORBIDDEN.search(domain):
        return None
    if ".." in address or local[0] == "." or local[-1] == "." or domain[0] in ".-" or domain[-1] in ".-":
        return None
    return local, domain
