"""Keeps addresses, secrets and the content of notifications out of the logs.

Our log calls name ids, never addresses or texts. `redacted` is a second safeguard, for texts of others (a driver's
error, a vendor's answer). The message of an unforeseen exception can contain anything, so `described` leaves it out,
except for kinds of exceptions whose messages contain no content.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator
from typing import Any

from tidings.model.errors import TidingsError

_GONE = "[redacted]"
_LONGEST_CHARS = 2_000
"""The longest text in a log line."""
_MOST_FRAMES = 20
_PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = (
    # PostgreSQL's errors contain the values of a row: `Key (address)=(x) already exists`, `Failing row contains (…)`.
    (re.compile(r"(DETAIL:|Failing row contains).*", re.DOTALL), rf"\1 {_GONE}"),
    (re.compile(r"\bKey \([^)]{0,200}\)=\(.*?\)(?= |$)"), f"Key {_GONE}"),
    # asyncio logs the error of a task that nobody awaited.
    (re.compile(r"\b(exception=\w+)\(.*\)", re.DOTALL), rf"\1({_GONE})"),
    (re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}"), rf"\1 {_GONE}"),
    (re.compile(r"\b(tk|whsec)_[A-Za-z0-9_-]{6,}"), rf"\1_{_GONE}"),
    (re.compile(r"\beyJ[A-Za-z0-9_-]{10,}(?:\.[A-Za-z0-9_-]*){0,4}"), _GONE),
    (
        re.compile(r"(?i)\b(password|passwd|secret|token|api[_-]?key)(\"?'?\s*[:=]\s*\"?'?)[^\s,;&\"']+"),
        rf"\1\2{_GONE}",
    ),
    (re.compile(r"(://[^/\s:@]{0,100}):[^\s@]{1,200}@(?=[^\s@]*(?:[/\s]|$))"), rf"\1:{_GONE}@"),
    (re.compile(r"[^\s@<>()\[\]{},;:\"'=/]{1,64}@[^\s@<>()\[\]{},;:\"'=/]{1,255}"), _GONE),
    (re.compile(r"(?<![\w.:+-])(?:\+|%2B)\d(?:[ ().\-/]{0,2}\d){5,14}(?!\w)"), _GONE),
)
_QUOTED = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|input_value=.*", re.DOTALL)
_WITHOUT_CONTENT = (TidingsError, OSError, TimeoutError, ArithmeticError, MemoryError, RecursionError, AssertionError)
_MODULES_WITHOUT_CONTENT = frozenset({"asyncpg", "confluent_kafka", "cimpl", "pyreqwest", "uvicorn", "h11"})


def redacted(text: str) -> str:
    """The text without email addresses, phone numbers, keys, passwords and values of rows."""
    text = text[:_LONGEST_CHARS]
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text[:_LONGEST_CHARS]


def described(error: BaseException, *, whole: bool = False) -> str:
    """One line about the error: its kind, and its message, unless that may contain the content of notifications.

    With `whole` the message is always there, still without addresses and secrets.
    """
    kind, text = type(error).__name__, str(error)
    if not text:
        return kind
    if whole or isinstance(error, _WITHOUT_CONTENT):
        return f"{kind}: {redacted(text)}"
    if type(error).__module__.partition(".")[0] in _MODULES_WITHOUT_CONTENT:
        return f"{kind}: {redacted(_QUOTED.sub(repr('…'), text))}"
    return f"{kind} (its message is left out: it may hold content)"


def chain(error: BaseException, *, whole: bool = False) -> list[dict[str, Any]]:
    """The error, its causes and the members of groups, outermost first: `exc_type`, `exc_value`, `frames`."""
    return [
        {
            "exc_type": type(cause).__name__,
            "exc_value": described(cause, whole=whole),
            "frames": [
                {"filename": frame.filename, "lineno": frame.lineno, "name": frame.name}
                for frame in traceback.extract_tb(cause.__traceback__)[-_MOST_FRAMES:]
            ],
        }
        for cause in _causes(error)
    ]


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error itself, then its causes and members, each once."""
    pending, seen = [error], set[int]()
    while pending:
        current = pending.pop(0)
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        if isinstance(current, BaseExceptionGroup):
            pending.extend(current.exceptions)
        cause = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
        if cause is not None:
            pending.append(cause)
