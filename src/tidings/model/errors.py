"""Errors that pass from one package to another. Each tells the person who caused it what is wrong and where."""

from __future__ import annotations


class TidingsError(Exception):
    """The base of every error that Tidings raises on purpose."""


class BadId(TidingsError):
    """A text that is not an id of the expected kind."""

    def __init__(self, prefix: str, text: str) -> None:
        super().__init__(f"{text[:60]!r} is not an id of the form {prefix}_<26 characters>")


class Invalid(TidingsError):
    """Input that cannot be accepted.

    `code` is stable and machine-readable, `path` is the JSON path of the wrong value (`$.to.phone`), `detail` says what
    would be right.
    """

    def __init__(self, code: str, detail: str, path: str = "$") -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.path = path


class NotFound(TidingsError):
    """Nothing of this kind and name exists, or it belongs to another tenant."""

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(f"there is no {kind} {name!r}")
        self.kind = kind
        self.name = name


class Archived(TidingsError):
    """The notification may be in the archive, which no API request reads."""


class Conflict(TidingsError):
    """The request contradicts what is stored; `code` says how.

    `retry_after_s` is set where the same request may succeed later.
    """

    def __init__(self, code: str, detail: str, retry_after_s: float | None = None) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.retry_after_s = retry_after_s


class Unavailable(TidingsError):
    """A part that is needed does not answer now; the same call may succeed after `retry_after_s` seconds."""

    def __init__(self, detail: str, retry_after_s: float = 1.0) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s


class Overloaded(Unavailable):
    """There is too much to do already; nothing was accepted."""


class Unreadable(TidingsError):
    """Bytes from a queue or the store that no version of the reader understands."""


class LeaseLost(TidingsError):
    """The claim's lease ran out and another claimer may own its items now; nothing was written."""


class BadReceipt(TidingsError):
    """An inbound request that a provider did not sign, or that cannot be read."""


class TemplateError(TidingsError):
    """A template that does not compile, cannot be rendered or does not end.

    `path` names the part (`email.subject`) where it is known; `reason` is the reason that its deliveries fail with.
    """

    def __init__(self, detail: str, path: str = "", reason: str = "template_error") -> None:
        super().__init__(detail)
        self.detail = detail
        self.path = path
        self.reason = reason


class SettingsError(TidingsError):
    """Settings that cannot work. The text says which, where they came from and what to write instead."""
