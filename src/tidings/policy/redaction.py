"""Removes what could identify a person from vendors' texts, for facts about other people (logs do so themselves)."""

from __future__ import annotations

import re

_ADDRESSES = re.compile(r"[^\s<>\"'(),;:]+@[^\s<>\"'(),;]+")
_NUMBERS = re.compile(r"\+?(?:\d[ ()/-]*){6,}\d")
_TOKENS = re.compile(r"[A-Za-z0-9_:\-]{24,}")


def without_addresses(text: str) -> str:
    """The text with placeholders for email addresses, device tokens and phone numbers."""
    for pattern, placeholder in ((_ADDRESSES, "<address>"), (_TOKENS, "<token>"), (_NUMBERS, "<number>")):
        text = pattern.sub(placeholder, text)
    return text
