"""Faults on demand: what the stand-ins do wrong because the control API asked for it.

A request fault (`status`, `hang`, `reset` …) spoils the vendor's answer; a later fault (`bounce`, `receipt_lost` …)
spoils what happens to one recipient afterwards. Faults are tried in the order in which they were set; the first that
fits, and that chance picks, is used.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from enum import StrEnum

from msgspec import Struct

from tidings.model.errors import Invalid


class Vendor(StrEnum):
    """The vendor that a stand-in plays."""

    SENDGRID = "sendgrid"
    TWILIO = "twilio"
    FCM = "fcm"
    OAUTH = "oauth"
    SMTP = "smtp"


class Kind(StrEnum):
    """What goes wrong."""

    STATUS = "status"
    HANG = "hang"
    LATENCY = "latency"
    SLOW_BODY = "slow_body"
    GARBAGE = "garbage"
    RESET = "reset"
    BOUNCE = "bounce"
    UNREGISTERED = "unregistered"
    RECEIPT_LOST = "receipt_lost"
    RECEIPT_TWICE = "receipt_twice"
    RECEIPT_LATE = "receipt_late"


KINDS: dict[Kind, str] = {
    Kind.STATUS: "answers with `status` (default 503, over SMTP 451, with a `code` that code's own) and, if set, with "
    "the vendor's `code` and Retry-After: `retry_after`",
    Kind.HANG: "says nothing for `seconds` (default 60), then cuts the connection",
    Kind.LATENCY: "waits `seconds` (default 1), then goes on as usual",
    Kind.SLOW_BODY: "answers as usual, the body spread over `seconds` (default 30)",
    Kind.GARBAGE: "answers with success and a body that is not what it should be",
    Kind.RESET: "resets the TCP connection instead of answering",
    Kind.BOUNCE: "takes it and reports a bounce (email; `code`: the status, such as 4.2.2, or blocked, expired) or "
    "that it was not delivered (SMS; `code`); over SMTP refuses the recipient (`code`: 550, 5.2.1 …)",
    Kind.UNREGISTERED: "says that the device token is gone",
    Kind.RECEIPT_LOST: "sends no receipts",
    Kind.RECEIPT_TWICE: "sends every receipt twice",
    Kind.RECEIPT_LATE: "sends receipts `seconds` (default 5) later",
}
"""What each kind does, for people."""

_RECEIPTS = frozenset({Vendor.SENDGRID, Vendor.TWILIO})
_ONLY: dict[Kind, frozenset[Vendor]] = {
    Kind.BOUNCE: frozenset({Vendor.SENDGRID, Vendor.TWILIO, Vendor.SMTP}),
    Kind.UNREGISTERED: frozenset({Vendor.FCM}),
    Kind.RECEIPT_LOST: _RECEIPTS,
    Kind.RECEIPT_TWICE: _RECEIPTS,
    Kind.RECEIPT_LATE: _RECEIPTS,
    Kind.SLOW_BODY: frozenset({Vendor.TWILIO, Vendor.FCM, Vendor.OAUTH}),
}
_LATER = frozenset({Kind.BOUNCE, Kind.UNREGISTERED, Kind.RECEIPT_LOST, Kind.RECEIPT_TWICE, Kind.RECEIPT_LATE})
_TAKEN = frozenset({Kind.LATENCY, Kind.SLOW_BODY, Kind.GARBAGE})
_DURATIONS_S = {Kind.HANG: 60.0, Kind.LATENCY: 1.0, Kind.SLOW_BODY: 30.0, Kind.RECEIPT_LATE: 5.0}
_MAX_SECONDS = 3600.0


class Fault(Struct, omit_defaults=False, forbid_unknown_fields=True, kw_only=True):
    """A fault that was asked for.

    `probability` applies to each request or recipient; the fault ends after `count` hits (None: when it is deleted).
    `recipient` limits it to addresses that begin so. `taken`: whether the vendor takes the message before it fails
    (None: as usual for the kind). `code` is the vendor's error code, such as 21610 or "UNREGISTERED", or an SMTP
    status. The sandbox sets `id` and `hits`.
    """

    vendor: Vendor
    kind: Kind
    status: int | None = None
    retry_after: float | None = None
    seconds: float | None = None
    code: int | str | None = None
    probability: float = 1.0
    count: int | None = None
    recipient: str = ""
    taken: bool | None = None
    id: str = ""
    hits: int = 0

    @property
    def duration_s(self) -> float:
        """How long the fault delays things: `seconds`, or the default of its kind."""
        return self.seconds if self.seconds is not None else _DURATIONS_S.get(self.kind, 0.0)

    @property
    def takes(self) -> bool:
        """Whether the vendor takes the message although it fails."""
        return self.kind in _TAKEN if self.taken is None else self.taken

    def check(self) -> None:
        """Raise Invalid, naming the field, if this fault cannot be played."""
        allowed = _ONLY.get(self.kind)
        if allowed is not None and self.vendor not in allowed:
            names = ", ".join(sorted(allowed))
            raise Invalid("fault_invalid", f"{self.kind.value} can be played by {names} only", "$.vendor")
        if not 0 < self.probability <= 1:
            raise Invalid("fault_invalid", "a probability is above 0 and at most 1", "$.probability")
        if self.count is not None and self.count < 1:
            raise Invalid("fault_invalid", "a count is at least 1; leave it out for no end", "$.count")
        if self.status is not None and not 400 <= self.status <= 599:
            raise Invalid("fault_invalid", "a status of a failure is 400 to 599", "$.status")
        if self.vendor is Vendor.TWILIO and not (self.code is None or str(self.code).isdecimal()):
            raise Invalid("fault_invalid", "an error code of Twilio is a number", "$.code")
        if self.code is not None and not (str(self.code).isascii() and str(self.code).isprintable()):
            raise Invalid("fault_invalid", "an error code is plain text", "$.code")
        for field in ("seconds", "retry_after"):
            value = getattr(self, field)
            if value is not None and not 0 <= value <= _MAX_SECONDS:
                raise Invalid("fault_invalid", f"{field} is 0 to {_MAX_SECONDS:.0f}", f"$.{field}")


class Faults:
    """The faults that are set. `version` changes whenever they change."""

    def __init__(self, seed: int | None = None) -> None:
        self._random = random.Random(seed)  # noqa: S311 - chance, not secrecy
        self._set: list[Fault] = []
        self._on_request: dict[Vendor, list[Fault]] = {}
        self._later: dict[Vendor, list[Fault]] = {}
        self._made = 0
        self.version = 0

    def add(self, fault: Fault) -> Fault:
        """Set a fault, and give it an id. Raises Invalid if it cannot be played."""
        fault.check()
        self._made += 1
        fault.id, fault.hits = f"fault-{self._made}", 0
        self._set.append(fault)
        self._sort()
        return fault

    def remove(self, id: str | None = None) -> int:
        """Delete the fault with this id, or all (None); returns how many were deleted."""
        before = len(self._set)
        self._set = [] if id is None else [fault for fault in self._set if fault.id != id]
        self._sort()
        return before - len(self._set)

    def all(self) -> list[Fault]:
        """The faults that are set, oldest first."""
        return list(self._set)

    def on_request(self, vendor: Vendor, recipients: Sequence[str] = ()) -> Fault | None:
        """The fault that hits a request for these recipients, or None. A returned fault counts as a hit."""
        candidates = self._on_request.get(vendor)
        return self._draw(candidates, recipients) if candidates else None

    def later(self, vendor: Vendor, recipient: str) -> Fault | None:
        """The fault that hits what happens to one recipient afterwards, or None. A returned fault counts as a hit."""
        candidates = self._later.get(vendor)
        return self._draw(candidates, (recipient,)) if candidates else None

    def _draw(self, candidates: list[Fault], recipients: Sequence[str]) -> Fault | None:
        for fault in candidates:
            if fault.recipient and not any(recipient.startswith(fault.recipient) for recipient in recipients):
                continue
            if fault.probability < 1 and self._random.random() >= fault.probability:
                continue
            fault.hits += 1
            self.version += 1
            if fault.count is not None and fault.hits >= fault.count:
                self._set.remove(fault)
                self._sort()
            return fault
        return None

    def _sort(self) -> None:
        self.version += 1
        self._on_request = {}
        self._later = {}
        for fault in self._set:
            index = self._later if fault.kind in _LATER else self._on_request
            index.setdefault(fault.vendor, []).append(fault)
