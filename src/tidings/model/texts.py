"""Makes texts from outside storable: whole characters, no NUL, a bounded length."""

from __future__ import annotations

import re

_UNSTORABLE = re.compile("[\0\ud800-\udfff]")


def fit(text: object, most: int) -> str:
    """The text in at most `most` characters. NUL and unpaired surrogates, which no store can hold, become U+FFFD."""
    fitted = text if isinstance(text, str) else str(text)
    if len(fitted) > most:
        fitted = fitted[: most - 1] + "…"
    return fitted if fitted.isascii() and "\0" not in fitted else _UNSTORABLE.sub("\ufffd", fitted)
