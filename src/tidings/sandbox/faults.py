"""Faults on demand: what the control API has asked the vendors to do wrong.

Faults of a request (`status`, `hang`, `reset` …) hit the vendor's answer; faults of fate (`bounce`, `receipt_lost` …)
hit what becomes of one recipient afterwards. Of several that fit, the first one set that is drawn counts.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from enum import StrEnum

from msgspec import Struct

from tidings.model.errors import Invalid


class Vendor(StrEnum):
    """Who is played."""

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
"""Each kind, for people."""

_RECEIPTS = frozenset({Vendor.SENDGRID, Vendor.TWILIO})
_ONLY: dict[Kind, frozenset[Vendor]] = {
    Kind.BOUNCE: frozenset({Vendor.SENDGRID, Vendor.TWILIO, Vendor.SMTP}),
    Kind.UNREGISTERED: frozenset({Vendor.FCM}),
    Kind.RECEIPT_LOST: _RECEIPTS,
    Kind.RECEIPT_TWICE: _RECEIPTS,
    Kind.RECEIPT_LATE: _RECEIPTS,
    Kind.SLOW_BODY: frozenset({Vendor.TWILIO, Vendor.FCM, Vendor.OAUTH}),
}
_OF_FATE = frozenset({Kind.BOUNCE, Kind.UNREGISTERED, Kind.RECEIPT_LOST, Kind.RECEIPT_TWICE, Kind.RECEIPT_LATE})
_TAKEN = frozenset({Kind.LATENCY, Kind.SLOW_BODY, Kind.GARBAGE})
_SECONDS = {Kind.HANG: 60.0, Kind.LATENCY: 1.0, Kind.SLOW_BODY: 30.0, Kind.RECEIPT_LATE: 5.0}
_MAX_SECONDS = 3600.0


class Fault(Struct, omit_defaults=False, forbid_unknown_fields=True, kw_only=True):
    """A fault that was asked for.

    `probability` is per request or recipient; `count` ends it after that many hits (None: until it is deleted).
    `recipient` limits it to addresses that begin so. `taken` says whether the vendor takes what was sent before it
    fails (None: as is usual for the kind). `code` is the vendor's error code: 21610 or
    "UNREGISTERED", or an SMTP status. `id` and `hits` are the sandbox's own.
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
    def duration(self) -> float:
        """How long it lasts, in seconds."""
        return self.seconds if self.seconds is not None else _SECONDS.get(self.kind, 0.0)

    @property
    def takes(self) -> bool:
        """Whether what was sent is taken all the same."""
        return self.kind in _TAKEN if self.taken is None else self.taken

    def check(self) -> None:
        """Raises Invalid, naming the field, when this cannot be played."""
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
    """The faults that are set. `version` changes with every change of them."""

    def __init__(self, seed: int | None = None) -> None:
        self._random = random.Random(seed)  # noqa: S311 - chance, not secrecy
        self._set: list[Fault] = []
        self._request: dict[Vendor, list[Fault]] = {}
        self._fate: dict[Vendor, list[Fault]] = {}
        self._made = 0
        self.version = 0

    def add(self, fault: Fault) -> Fault:
        """Set a fault; it gets an id. Raises Invalid when it cannot be played."""
        fault.check()
        self._made += 1
        fault.id, fault.hits = f"fault-{self._made}", 0
        self._set.append(fault)
        self._sort()
        return fault

    def remove(self, id: str | None = None) -> int:
        """Delete one, or all (None); how many."""
        before = len(self._set)
        self._set = [] if id is None else [fault for fault in self._set if fault.id != id]
        self._sort()
        return before - len(self._set)

    def all(self) -> list[Fault]:
        """The faults that are set, oldest first."""
        return list(self._set)

    def of_request(self, vendor: Vendor, recipients: Sequence[str] = ()) -> Fault | None:
        """The fault that hits a request for these recipients, or None."""
        mine = self._request.get(vendor)
        return self._draw(mine, recipients) if mine else None

    def of_fate(self, vendor: Vendor, recipient: str) -> Fault | None:
        """The fault that hits what becomes of one recipient, or None."""
        mine = self._fate.get(vendor)
        return self._draw(mine, (recipient,)) if mine else None

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
        self._request = {}
        self._fate = {}
        for fault in self._set:
            index = self._fate if fault.kind in _OF_FATE else self._request
            index.setdefault(fault.vendor, []).append(fault)
