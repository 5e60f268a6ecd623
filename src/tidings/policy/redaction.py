"""Text of vendors without what could name a person, for facts about other people (logs have a net of their own)."""

from __future__ import annotations

import re

_ADDRESSES = re.compile(r"[^\s<>\"'(),;:]+@[^\s<>\"'(),;]+")
_NUMBERS = re.compile(r"\+?(?:\d[ ()/-]*){6,}\d")
_TOKENS = re.compile(r"[A-Za-z0-9_:\-]{24,}")


def without_addresses(text: str) -> str:
    """The text with email addresses, phone numbers and device tokens blotted out."""
    for pattern, instead in ((_ADDRESSES, "<address>"), (_TOKENS, "<token>"), (_NUMBERS, "<number>")):
        text = pattern.sub(instead, text)
    return text
