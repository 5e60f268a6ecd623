"""Links: where a press on a push or an inbox item leads."""

from __future__ import annotations

import re

_SCHEME = re.compile(r"\s*([A-Za-z][A-Za-z0-9+.\-]*):")
_ACTIVE = frozenset({"data", "javascript", "vbscript"})

UNSAFE = "a link must lead somewhere: javascript:, vbscript: and data: would run in the page that shows it"


def is_safe(link: str) -> bool:
    """Whether a page may take this one line for an `href`: any path, web address or app's scheme, but no script.

    Line ends and tabs, which browsers pass over in a scheme (URL Standard, "basic URL parser"), must be out already.
    """
    scheme = _SCHEME.match(link)
    return scheme is None or scheme[1].lower() not in _ACTIVE
