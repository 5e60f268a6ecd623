"""The providers against the sandbox: both follow the vendors' documentation, so they must agree."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec
import pytest

from support import eventually
from support.fcm import FcmVendor
from support.sandbox import Caller, Listener
from support.smtp import SmtpVendor
from support.vendors import SendgridVendor, StillClock, TwilioVendor, id_of
from tidings.channels.email.sendgrid import Sendgrid
from tidings.channels.registry import build, providers
from tidings.channels.sms.twilio import Twilio
from tidings.channels.tools import Tools
from tidings.model.errors import BadReceipt
from tidings.model.sending import About, InboundRequest, Receipt, Rejected, Retry, SendResult, Sent, Uncertain
from tidings.model.vocabulary import State
from tidings.ports.provider import Provider
from tidings.sandbox.credentials import Credentials, provider_settings
from tidings.sandbox.server import Handle

NAMES = ["fcm", "sendgrid", "smtp", "twilio"]
VENDORS: dict[str, Any] = {"fcm": FcmVendor, "sendgrid": SendgridVendor, "smtp": SmtpVendor, "twilio": TwilioVendor}


class WallClock(StillClock):
    def now(self) -> int:
        return time.time_ns() // 1_000_000


class Made:
    """The providers of one sandbox, created on first use."""

    def __init__(self, sandbox: Handle, credentials: Credentials, listener: Listener) -> None:
        self.sections = provider_settings(credentials, sandbox.url, "127.0.0.1", sandbox.smtp_port)
        self.listener = listener
        self.made: list[Provider[Any]] = []

    def __call__(self, name: str, **more: Any) -> Provider[Any]:
        tools = Tools(f"{self.listener.url}/v1/receipts", WallClock(), None)
        provider = build(name, self.sections[name] | more, tools)
        self.made.append(provider)
        return provider

    async def send(self, name: str, *to: str) -> Sequence[SendResult]:
        vendor = VENDORS[name]()
        return await self(name).send([vendor.delivery(n + 1, to=one) for n, one in enumerate(to)])


@pytest.fixture
async def made(sandbox: Handle, credentials: Credentials, listener: Listener) -> AsyncIterator[Made]:
    making = Made(sandbox, credentials, listener)
    yield making
    for provider in making.made:
        await provider.close()


@pytest.mark.parametrize("name", NAMES)
async def test_the_sandboxs_credentials_are_good(made: Made, name: str) -> None:
    assert await made(name).check()


@pytest.mark.parametrize("name", NAMES)
async def test_sent_deliveries_arrive(made: Made, caller: Caller, name: str) -> None:
    vendor = VENDORS[name]()
    batch = [vendor.delivery(n, text=f"Grüße {n} ご注文 & +1%") for n in range(40)]
    results = await made(name).send(batch)
    assert all(isinstance(result, Sent) for result in results)
    found = (await caller.get("/_sandbox/arrivals?limit=100"))["arrivals"]
    assert sorted((one["to"], one["text"].strip()) for one in found) == sorted(
        (one.to, f"Grüße {n} ご注文 & +1%") for n, one in enumerate(batch)
    )


@pytest.mark.parametrize(
    ("name", "to", "kind", "reason", "suppress"),
    [
        ("twilio", "+15005550001", Rejected, "invalid_number", True),
        ("twilio", "+15005550002", Rejected, "no_route", False),
        ("twilio", "+15005550003", Rejected, "country_not_enabled", False),
        ("twilio", "+15005550004", Rejected, "unsubscribed", True),
        ("twilio", "+15005550009", Rejected, "not_a_mobile_number", True),
        ("twilio", "+15005550429", Retry, "throttled", False),
        ("sendgrid", "unverified@example.com", Retry, "forbidden", False),
        ("smtp", "closed@example.com", Rejected, "mailbox_disabled", True),
        ("smtp", "overquota@example.com", Rejected, "mailbox_full", False),
        ("fcm", "payload-1", Rejected, "invalid_payload", False),
        ("twilio", "+15005550500", Retry, "provider_error", False),
        ("sendgrid", "throttled@example.com", Retry, "throttled", False),
        ("sendgrid", "error@example.com", Retry, "provider_error", False),
        ("smtp", "bounce@example.com", Rejected, "no_such_mailbox", True),
        ("smtp", "blocked@example.com", Rejected, "refused_by_policy", False),
        ("smtp", "defer@example.com", Retry, "deferred_by_policy", False),
        ("smtp", "full@example.com", Retry, "mailbox_full", False),
        ("fcm", "unregistered-1", Rejected, "unregistered", True),
        ("fcm", "invalid-1", Rejected, "invalid_token", True),
        ("fcm", "mismatch-1", Rejected, "sender_id_mismatch", False),
        ("fcm", "quota-1", Retry, "throttled", False),
        ("fcm", "unavailable-1", Retry, "unavailable", False),
        ("fcm", "internal-1", Retry, "provider_error", False),
        ("fcm", "thirdparty-1", Retry, "third_party_auth", False),
    ],
)
async def test_a_magic_address_is_understood(
    made: Made, name: str, to: str, kind: type, reason: str, suppress: bool
) -> None:
    [result] = await made.send(name, to)
    assert isinstance(result, Rejected | Retry)
    assert (type(result), result.reason) == (kind, reason)
    assert isinstance(result, Retry) or result.suppress == suppress


def fault_for(name: str, code: int | str) -> dict[str, Any]:
    """The sandbox's fault that gives this row of the provider's error table."""
    number, _, case = str(code).partition(" ")
    if name == "twilio":
        return {"kind": "status", "code": int(number)}
    if name == "sendgrid":
        return {"kind": "status", "status": int(number)}
    if name == "smtp":
        return {"kind": "bounce", "code": {"4yz": 459, "5yz": 559}.get(number, code)}
    # The service answers INVALID_ARGUMENT in both cases; the sandbox has a name of its own for an invalid message.
    return {
        "kind": "status",
        "code": "INVALID_ARGUMENT payload" if (number, case) == ("INVALID_ARGUMENT", "") else number,
    }


ROWS = [(name, code) for name in NAMES for code in providers()[name].ERRORS]


@pytest.mark.parametrize(("name", "code"), ROWS, ids=[f"{name}-{code}" for name, code in ROWS])
async def test_each_row_of_the_error_table_can_be_provoked(
    made: Made, caller: Caller, name: str, code: int | str
) -> None:
    vendor = VENDORS[name]()
    to = None
    if code == "400 recipient":
        to = "nobody@localhost"  # a text that we accept as an address and the vendor does not
    else:
        await caller.fault(vendor=name, **fault_for(name, code))
    provider = made(name, **vendor.settings_for(code))
    [result] = await provider.send([vendor.delivery(1, to=to)])
    expected = provider.ERRORS[code]
    assert isinstance(result, Rejected | Retry)
    assert result.detail
    if (name, code) == ("sendgrid", 429):
        assert isinstance(result, Retry)
        assert result.after_s is not None, "X-RateLimit-Reset was ignored"
        assert 0 <= result.after_s <= 3
        assert result.about is About.ACCOUNT
        result = msgspec.structs.replace(result, after_s=None, about=None)
    assert msgspec.structs.replace(result, detail="") == msgspec.structs.replace(expected, detail="")


@pytest.mark.parametrize("name", ["fcm", "sendgrid", "twilio"])
@pytest.mark.parametrize("kind", ["hang", "reset", "garbage"])
async def test_a_fault_of_the_sandbox_is_never_a_retry(made: Made, caller: Caller, name: str, kind: str) -> None:
    await caller.fault(vendor=name, kind=kind)
    provider = made(name, timeout=0.8, connect_timeout=0.7)
    [result] = await provider.send([VENDORS[name]().delivery(1)])
    assert isinstance(result, Uncertain | Sent)
    assert isinstance(result, Uncertain) or kind == "garbage"


async def receipts_of(made: Made, name: str, count: int) -> list[Receipt]:
    provider = made(name)
    found: list[Receipt] = []

    def all_are_here() -> bool:
        found.clear()
        for posted in made.listener.posted:
            found.extend(provider.receipts(InboundRequest(posted.url, posted.headers, {}, posted.body)))
        return len(found) >= count

    await eventually(all_are_here)
    return found


async def test_each_twilio_code_means_the_same_in_a_receipt(made: Made, caller: Caller) -> None:
    codes = [int(code) for code in Twilio.ERRORS if isinstance(code, int)]
    numbers = {f"+14155553{place:03}": code for place, code in enumerate(codes)}
    for number, code in numbers.items():
        await caller.fault(vendor="twilio", kind="bounce", code=code, recipient=number)
    assert all(isinstance(result, Sent) for result in await made.send("twilio", *numbers))
    late = [code for code in codes if code >= 30003]
    found = await receipts_of(made, "twilio", len(codes) + len(late))
    failed = {one.address: one for one in found if one.state is State.FAILED}
    assert len(failed) == len(codes)
    for number, code in numbers.items():
        row, receipt = Twilio.ERRORS[code], failed[number]
        assert (receipt.reason, receipt.suppress) == (row.reason, isinstance(row, Rejected) and row.suppress)
        assert receipt.detail == f"{code}: {row.detail}"


async def test_a_short_code_that_reaches_nobody_does_not_suppress(made: Made, caller: Caller) -> None:
    await caller.fault(vendor="twilio", kind="bounce", code=30006)
    await made("twilio", from_number="12345").send([TwilioVendor().delivery(1)])
    receipt = (await receipts_of(made, "twilio", 2))[-1]
    assert (receipt.reason, receipt.suppress) == ("carrier_unreachable", False)


EVENTS = {
    "delivered": "ada",
    "deferred": "defer",
    "open": "open",
    "click": "click",
    "bounce": "bounce",
    "bounce full": "full",
    "bounce unavailable": "away",
    "bounce temporary": "soft",
    "bounce blocked": "blocked",
    "bounce expired": "expired",
    "dropped": "lost",
    "dropped bounced address": "dropped",
    "dropped invalid": "invalid",
    "dropped spam reporting address": "complained",
    "dropped unsubscribed address": "unsubscribed",
    "dropped spam content (if spam checker app enabled)": "spamcontent",
    "dropped recipient list over package quota": "overquota",
    "spamreport": "spam",
    "unsubscribe": "unsubscribe",
    "group_unsubscribe": "groupunsubscribe",
}


async def test_each_sendgrid_event_can_be_provoked(made: Made) -> None:
    assert set(EVENTS) == set(Sendgrid.EVENTS)
    addresses = {f"{word}@example.com": Sendgrid.EVENTS[name] for name, word in EVENTS.items()}
    assert all(isinstance(result, Sent) for result in await made.send("sendgrid", *addresses))
    # Six of them are delivered first, and a click implies an open.
    found = await receipts_of(made, "sendgrid", len(addresses) + 7)
    for address, event in addresses.items():
        told = [one for one in found if one.address == address]
        assert (event.state, event.kind, event.reason, event.suppress) in [
            (one.state, one.kind, one.reason, one.suppress) for one in told
        ]
    assert {one.address for one in found if one.suppress} == {
        f"{EVENTS[name]}@example.com" for name, event in Sendgrid.EVENTS.items() if event.suppress
    }


async def test_a_bounce_may_have_any_status(made: Made, caller: Caller) -> None:
    statuses = {"5.1.1": True, "5.0.0": True, "5.2.2": False, "4.2.2": False, "4.4.1": False, "blocked": False}
    addresses = {f"ada{place}@example.com": status for place, status in enumerate(statuses)}
    for address, status in addresses.items():
        await caller.fault(vendor="sendgrid", kind="bounce", code=status, recipient=address)
    await made.send("sendgrid", *addresses)
    found = await receipts_of(made, "sendgrid", len(addresses))
    assert {addresses[str(one.address)]: one.suppress for one in found} == statuses


@pytest.mark.parametrize(
    ("name", "to", "told"),
    [
        ("twilio", "+15005551610", [(State.FAILED, "unsubscribed", True)]),
        ("twilio", "+15005553002", [(State.FAILED, "account_suspended", False)]),
        ("twilio", "+14155550100", [(State.SENT, "", False), (State.DELIVERED, "", False)]),
        ("twilio", "+15005553005", [(State.SENT, "", False), (State.FAILED, "unknown_number", True)]),
        ("twilio", "+15005553001", [(State.FAILED, "queue_full", False)]),
        ("sendgrid", "ada@example.com", [(State.DELIVERED, "", False)]),
        ("sendgrid", "bounce@example.com", [(State.FAILED, "bounced", True)]),
        ("sendgrid", "blocked@example.com", [(State.FAILED, "blocked", False)]),
        ("sendgrid", "dropped@example.com", [(State.FAILED, "bounced_address", True)]),
        ("sendgrid", "spam@example.com", [(State.DELIVERED, "", False), (State.DELIVERED, "complained", True)]),
        ("sendgrid", "defer@example.com", [(State.SENT, "deferred", False), (State.DELIVERED, "", False)]),
    ],
)
async def test_the_sandboxs_receipts_are_accepted(
    made: Made, name: str, to: str, told: list[tuple[State, str, bool]]
) -> None:
    [result] = await made.send(name, to)
    assert isinstance(result, Sent)
    found = await receipts_of(made, name, len(told))
    assert [(one.state, one.reason, one.suppress) for one in found] == told
    for one in found:
        assert (one.delivery_id, one.tenant, one.attempt, one.address) == (id_of(1), "shop", 1, to)
        assert one.reference == result.reference


async def test_a_tampered_receipt_is_refused(made: Made) -> None:
    await asyncio.gather(made.send("twilio", "+14155550100"), made.send("sendgrid", "ada@example.com"))
    posted = await eventually(lambda: made.listener.posted if len(made.listener.posted) >= 3 else None)
    for one in posted:
        name = "sendgrid" if "x-twilio-signature" not in one.headers else "twilio"
        with pytest.raises(BadReceipt):
            made(name).receipts(
                InboundRequest(one.url, one.headers, {}, one.body.replace(b"delivered", b"failed") + b" ")
            )
