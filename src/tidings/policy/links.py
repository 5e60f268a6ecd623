"""Links: what a tap on a push or a click on an inbox item opens."""

from __future__ import annotations

import re

_SCHEME = re.compile(r"\s*([A-Za-z][A-Za-z0-9+.\-]*):")
_ACTIVE = frozenset({"data", "javascript", "vbscript"})

UNSAFE = "a link must lead somewhere: javascript:, vbscript: and data: would run in the page that shows it"


def is_safe(link: str) -> bool:
    """Whether a page may use this line as an `href`: any path, web address or app's scheme, but no script.

    The caller has removed line ends and tabs, which browsers ignore in a scheme (URL Standard, "basic URL parser").
    """
    scheme = _SCHEME.match(link)
    return scheme is None or scheme[1].lower() not in _ACTIVE
