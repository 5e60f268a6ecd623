"""Errors that cross rooms. Each says, in words for the person who caused it, what is wrong and where."""

from __future__ import annotations


class TidingsError(Exception):
    """The root of every error that Tidings raises on purpose."""


class BadId(TidingsError):
    """A text that is not an id of the expected kind."""

    def __init__(self, prefix: str, text: str) -> None:
        super().__init__(f"{text[:60]!r} is not an id of the form {prefix}_<26 characters>")


class Invalid(TidingsError):
    """Input that cannot be accepted.

    `code` is stable and machine-readable, `path` is the JSON path of the culprit (`$.to.phone`), `detail` says what
    would be right.
    """

    def __init__(self, code: str, detail: str, path: str = "$") -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.path = path


class NotFound(TidingsError):
    """There is no such thing, or it belongs to another tenant."""

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(f"there is no {kind} {name!r}")
        self.kind = kind
        self.name = name


class Archived(TidingsError):
    """What is asked for may be in the archive, which is not read on the way of a request."""


class Conflict(TidingsError):
    """The request contradicts the state of things (`code` says how).

    `retry_after` (seconds) where that may pass by itself.
    """

    def __init__(self, code: str, detail: str, retry_after: float | None = None) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.retry_after = retry_after


class Unavailable(TidingsError):
    """A part that is needed does not answer now; the same call may succeed after `retry_after` seconds."""

    def __init__(self, detail: str, retry_after: float = 1.0) -> None:
        super().__init__(detail)
        self.retry_after = retry_after


class Overloaded(Unavailable):
    """There is too much to do already; nothing was taken."""


class Unreadable(TidingsError):
    """Bytes from a queue or the store that no version of the reader understands."""


class LeaseLost(TidingsError):
    """The claim's lease ran out and another claimer may own its items now; nothing was written."""


class BadReceipt(TidingsError):
    """An inbound request that a provider did not sign, or that cannot be read."""


class TemplateError(TidingsError):
    """A template that does not compile, render or end. `path` names the part (`email.subject`) where it is known.

    `reason` is what its deliveries end with.
    """

    def __init__(self, detail: str, path: str = "", reason: str = "template_error") -> None:
        super().__init__(detail)
        self.detail = detail
        self.path = path
        self.reason = reason


class SettingsError(TidingsError):
    """Settings that cannot work; the text says which, where they came from and what to write instead."""
