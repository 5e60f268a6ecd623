"""Sends text messages through Twilio's Messages resource, one request for each.

Facts, and Twilio's page for each (below https://www.twilio.com/docs):

- The request, its parameters and the answer 201 with the message's `sid`: `messaging/api/message-resource`.
- Errors are JSON with `code` and `message`: `usage/twilios-response`; what each code means: `api/errors/<code>`.
- 429 and code 20429: never processed, safe to send again: `api/errors/20429`. Too many requests came at once, so the
  account must wait.
- 21611 and 30001: ten hours of messages are waiting; send again later: `api/errors/21611`, `api/errors/30001`.
- 30003 may succeed when it is sent again: `api/errors/30003`. 30004 stands for opt-outs, do-not-disturb lists and
  blocks, so no other provider is tried and the number is not suppressed: `api/errors/30004`. 30006 is a landline, or a
  carrier that short codes do not reach: `api/errors/30006`. After 30007 no other provider is tried: evading a filter
  there would harm that sender too.
- 21610 holds until the person texts START. Tidings does not hear of that, so somebody must take the number off the
  suppression list: `api/errors/21610`.
- Status callbacks, their `MessageStatus` and `ErrorCode`: `messaging/guides/track-outbound-message-status` and
  `messaging/guides/outbound-message-status-in-status-callbacks`.
- Their signature, HMAC-SHA1 over the URL and the sorted parameters with the auth token:
  `usage/webhooks/webhooks-security`. The signed URL may or may not have the port, so both are accepted, as in Twilio's
  own libraries.
- `ValidityPeriod`: for how many seconds Twilio keeps a message in its queue, 1 to 36,000 (the default):
  `messaging/api/message-resource`. It bounds the wait at Twilio, not at the carrier. 30036 says that it ended:
  `api/errors/30036`.
- A Messaging Service that does not exist (21701, 21705) or has no number (21704) is the account's fault: everything
  waits until somebody corrects it: `api/errors/21701`. If it has no sender for this recipient (21703), another provider
  is tried.
- The account, which `check` reads: `iam/api/account`.

The Messages resource has no idempotency key, so a request without an answer stays uncertain.
"""

from __future__ import annotations

import hmac
import re
from base64 import b64encode
from collections.abc import Iterator, Sequence
from typing import ClassVar
from urllib.parse import parse_qs, quote, quote_plus, urlsplit, urlunsplit

import msgspec
from msgspec import Struct
from pydantic import Field, model_validator

from tidings.channels.errors import ACCOUNT_WAIT_S, follow
from tidings.channels.http import Answer, HttpClient, brief, by_status, retry_after_s
from tidings.channels.parallel import NOT_BEGUN, in_parallel
from tidings.channels.settings import HttpProviderConfig, HttpUrl, Token, is_private
from tidings.channels.tools import Tools
from tidings.model.errors import BadId, BadReceipt, SettingsError
from tidings.model.ids import DELIVERY_PREFIX, from_text, to_text
from tidings.model.sending import (
    About,
    InboundRequest,
    Receipt,
    Rejected,
    Retry,
    SendResult,
    Sent,
    SmsDelivery,
    Uncertain,
)
from tidings.model.vocabulary import State
from tidings.ports.provider import Event, SmsProvider

_MOST_PARAMETERS = 100
_LONGEST_KEPT_S = 36_000
_VERSION = "/2010-04-01"
_LANDLINE = 30006
_SHORT_CODE = re.compile(r"\d{3,8}")


class TwilioConfig(HttpProviderConfig):
    """The settings in `providers.twilio`."""

    account_sid: str = Field(pattern=r"^AC[0-9A-Za-z]{4,60}$", description="the Account SID; it starts with AC")
    auth_token: Token = Field(description="the account's Auth Token; it also checks the signatures of receipts")
    from_number: str | None = Field(
        default=None,
        pattern=r"^(\+[1-9]\d{6,14}|\d{3,8}|[A-Za-z0-9 +_&-]{1,11})$",
        description="the sender: a number of the account as +15550100, a short code or an alphanumeric sender id",
    )
    messaging_service_sid: str | None = Field(
        default=None,
        pattern=r"^MG[0-9A-Za-z]{4,60}$",
        description="the Messaging Service that picks the sender, instead of from_number; it starts with MG",
    )
    base_url: HttpUrl = Field(default="https://api.twilio.com", description="the API's address; change it for tests")

    @model_validator(mode="after")
    def _one_sender(self) -> TwilioConfig:
        if (self.from_number is None) == (self.messaging_service_sid is None):
            raise ValueError("exactly one of from_number and messaging_service_sid must be set")
        return self


class _Taken(Struct):
    sid: str


class _Account(Struct):
    status: str


class _Error(Struct):
    code: int | None = None
    message: str = ""


_taken = msgspec.json.Decoder(_Taken)
_account = msgspec.json.Decoder(_Account)
_error = msgspec.json.Decoder(_Error)


class Twilio(SmsProvider):
    """Sends through Twilio."""

    kind = "twilio"
    Config: ClassVar[type[TwilioConfig]] = TwilioConfig
    ERRORS_PAGE = "https://www.twilio.com/docs/api/errors, one page for each code"
    ERRORS: ClassVar = {
        20003: Retry("unauthorized", ACCOUNT_WAIT_S, "the account SID or the auth token is wrong", About.UNOFFERED),
        20005: Retry("account_inactive", ACCOUNT_WAIT_S, "the account is not active", About.UNOFFERED),
        20429: Retry("throttled", None, "too many requests at once; this one was not processed", About.ACCOUNT),
        21211: Rejected("invalid_number", suppress=True, detail="not a phone number"),
        21212: Rejected("invalid_sender", fallback=True, detail="the sender is not a phone number"),
        21408: Rejected("country_not_enabled", fallback=True, detail="the account may not send to that country"),
        21606: Rejected("invalid_sender", fallback=True, detail="the sender cannot send to that number"),
        21608: Rejected("trial_account", fallback=True, detail="a trial account sends to verified numbers alone"),
        21609: Rejected("invalid_receipts_url", fallback=True, detail="http.public_url is no address for receipts"),
        21610: Rejected("unsubscribed", suppress=True, detail="the person replied STOP"),
        21611: Retry("queue_full", 300.0, "the sender has ten hours of messages waiting", About.ACCOUNT),
        21612: Rejected("no_route", fallback=True, detail="no way from this sender to that number"),
        21614: Rejected("not_a_mobile_number", suppress=True, detail="not a mobile number"),
        21617: Rejected("body_too_long", detail="over 1,600 characters"),
        21635: Rejected("landline", suppress=True, detail="a landline, in a country where it gets no texts"),
        21659: Rejected("invalid_sender", fallback=True, detail="the sender is not a number of Twilio's"),
        21660: Rejected("invalid_sender", fallback=True, detail="the sender is not a number of the account"),
        21661: Rejected("invalid_sender", fallback=True, detail="the sender cannot send texts"),
        21701: Retry("no_such_service", ACCOUNT_WAIT_S, "there is no such Messaging Service", About.UNOFFERED),
        21703: Rejected("no_sender", fallback=True, detail="the Messaging Service has no sender for that number"),
        21704: Retry("service_without_sender", ACCOUNT_WAIT_S, "the Messaging Service has no number", About.UNOFFERED),
        21705: Retry("no_such_service", ACCOUNT_WAIT_S, "the Messaging Service is not valid", About.UNOFFERED),
        30001: Retry("queue_full", 300.0, "the senders have too many messages waiting", About.ACCOUNT),
        30002: Retry("account_suspended", ACCOUNT_WAIT_S, "the account is suspended", About.UNOFFERED),
        30003: Retry("handset_unreachable", 900.0, "the phone is off or away; the number may well be good"),
        30004: Rejected("blocked", detail="the person or the carrier blocks it, or a do-not-disturb list has it"),
        30005: Rejected("unknown_number", suppress=True, detail="the number is unknown or no longer in service"),
        30006: Rejected("landline", suppress=True, detail="a landline"),
        "30006 short code": Rejected(
            "carrier_unreachable", fallback=True, detail="the carrier takes nothing from a short code, or a landline"
        ),
        30007: Rejected("filtered", detail="filtered as unwanted by Twilio or the carrier"),
        30008: Retry("unknown_error", 300.0, "the carrier gives no reason; often passes"),
        30034: Rejected("sender_not_registered", fallback=True, detail="a US number without A2P 10DLC registration"),
        30036: Rejected(
            "expired_at_provider", detail="it waited at Twilio until expires_at, or the longest that Twilio keeps it"
        ),
        30450: Rejected("blocked_as_fraud", detail="taken for fraud; that part of the numbers is blocked for a while"),
    }
    EVENTS: ClassVar = {
        "sent": Event(State.SENT, "sent", detail="the carrier took it"),
        "delivered": Event(State.DELIVERED, "delivered", detail="the carrier says that it arrived"),
        "read": Event(State.DELIVERED, "opened", detail="it was read (not for SMS)"),
        "undelivered": Event(State.FAILED, "undelivered", detail="it did not arrive; the error code says why"),
        "failed": Event(State.FAILED, "failed", detail="it was not sent; the error code says why"),
        "canceled": Event(State.FAILED, "cancelled", detail="it was called back in Twilio"),
    }

    def __init__(self, config: TwilioConfig, tools: Tools) -> None:
        """A provider that sends with `config` and has its receipts sent to `tools.receipts_url`."""
        self.name, self.rate = tools.name, config.rate
        self.batch_size = min(32, config.concurrency)
        self.parallel = self.batch_size
        self.concurrency = config.concurrency // self.batch_size
        self.timeout_s = 2 * config.timeout
        self._request_timeout_s = config.timeout
        self._config = config
        self._clock = tools.clock
        secret = config.auth_token.get_secret_value()
        self._key = secret.encode()
        login = b64encode(f"{config.account_sid}:{secret}".encode()).decode()
        headers = {"authorization": f"Basic {login}", "content-type": "application/x-www-form-urlencoded"}
        self._http = HttpClient(config.base_url, config, headers)
        self._account = f"{_VERSION}/Accounts/{config.account_sid}"
        self._path = f"{self._account}/Messages.json"
        sender, value = (
            ("From", config.from_number)
            if config.from_number is not None
            else ("MessagingServiceSid", config.messaging_service_sid or "")
        )
        self._start = f"{sender}={quote_plus(value)}"
        # Twilio refuses a message whose callback address it cannot reach (21609). So somebody who tries their account
        # out from a laptop gets no receipts, instead of no messages.
        self._wants_receipts = is_private(config.base_url) or not is_private(tools.receipts_url)
        if self._wants_receipts:
            self._start += f"&StatusCallback={quote(tools.receipts_url, safe='')}%3Fdelivery%3D"

    async def send(self, batch: Sequence[SmsDelivery]) -> Sequence[SendResult]:
        """Send each delivery in a request of its own, up to `batch_size` of them at once."""
        return await in_parallel(
            batch, self._send, NOT_BEGUN, limit=self.batch_size * self.concurrency, within_s=self._request_timeout_s
        )

    async def _send(self, delivery: SmsDelivery) -> SendResult:
        try:
            body = self._form(delivery)
        except UnicodeEncodeError:
            return Rejected("invalid_text", detail="the text or the number is not valid Unicode")
        reply = await self._http.post(self._path, body)
        if not isinstance(reply, Answer):
            return reply
        if reply.status in (200, 201):
            try:
                return Sent(_taken.decode(reply.body).sid)
            except (msgspec.MsgspecError, UnicodeDecodeError):
                return Uncertain("unreadable_answer", f"HTTP status {reply.status}, but not Twilio's JSON")
        return self._refused(reply)

    def _form(self, delivery: SmsDelivery) -> bytes:
        # `_start` holds the parts that never change, already encoded: urlencode of the whole form takes four times as
        # long.
        text = f"&To={quote_plus(delivery.to)}&Body={quote_plus(delivery.content.text)}"
        if delivery.expires_at is not None:
            left_s = max(1, (delivery.expires_at - self._clock.now()) // 1000)
            if left_s <= _LONGEST_KEPT_S:
                text += f"&ValidityPeriod={left_s}"
        if not self._wants_receipts:
            return (self._start + text).encode()
        tenant = quote(quote(delivery.tenant, safe=""), safe="")
        tail = f"{to_text(DELIVERY_PREFIX, delivery.id)}%26tenant%3D{tenant}%26attempt%3D{delivery.attempt}"
        return (self._start + tail + text).encode()

    def _refused(self, answer: Answer) -> SendResult:
        try:
            error = _error.decode(answer.body)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            error = _Error()
        known = self._row(error.code, self._config.from_number or "") if error.code is not None else None
        if known is None:
            said = f"{error.code}: {error.message}" if error.code is not None else error.message
            return by_status(answer, self._clock, said)
        said = brief(f"{error.code}: {error.message or known.detail}")
        return follow(known, said, retry_after_s(answer, self._clock))

    def receipts(self, request: InboundRequest) -> list[Receipt]:
        """The receipt in a status callback, if it has one. Raises BadReceipt if the request is not Twilio's."""
        form = self._verified(request)
        where = parse_qs(urlsplit(request.url).query)
        try:
            delivery_id = from_text(DELIVERY_PREFIX, where["delivery"][0])
            tenant, attempt = where["tenant"][0], int(where["attempt"][0][:9])
        except (KeyError, ValueError, BadId) as error:
            raise BadReceipt("Twilio signed this, but its URL does not name a delivery of ours") from error
        event = self.EVENTS.get(form.get("MessageStatus", ""))
        if event is None:
            return []
        reason, detail, suppress = event.reason, "", event.suppress
        if event.state is State.FAILED:
            reason, detail, suppress = self._failure(form.get("ErrorCode", ""), form.get("From", ""), event.kind)
        return [
            Receipt(
                delivery_id=delivery_id,
                tenant=tenant,
                state=event.state,
                kind=event.kind,
                attempt=attempt,
                reason=reason,
                detail=detail,
                reference=form.get("MessageSid", ""),
                address=form.get("To") or None,
                suppress=suppress,
            )
        ]

    def _failure(self, code: str, sender: str, kind: str) -> tuple[str, str, bool]:
        """The reason and detail of a failure, and whether to suppress the address."""
        known = self._row(int(code), sender) if code.isascii() and code.isdigit() and len(code) < 9 else None
        if known is None:
            return kind, brief(f"error {code}") if code else "", False
        return known.reason, f"{code}: {known.detail}", isinstance(known, Rejected) and known.suppress

    def _row(self, code: int, sender: str) -> Retry | Rejected | None:
        """The row of the error table for a message from `sender`."""
        if code == _LANDLINE and _SHORT_CODE.fullmatch(sender):
            return self.ERRORS[f"{code} short code"]
        return self.ERRORS.get(code)

    def _verified(self, request: InboundRequest) -> dict[str, str]:
        """The form in the request. Raises BadReceipt unless Twilio signed it."""
        signature = request.headers.get("x-twilio-signature", "")
        try:
            form = parse_qs(
                request.body.decode(), keep_blank_values=True, max_num_fields=_MOST_PARAMETERS, errors="strict"
            )
            signed = "".join(name + value for name in sorted(form) for value in sorted(set(form[name]))).encode()
            given = signature.encode()
            genuine = [
                hmac.compare_digest(b64encode(hmac.digest(self._key, url.encode() + signed, "sha1")), given)
                for url in _spellings(request.url)
            ]
        except ValueError as error:
            raise BadReceipt("the body is not a form as Twilio sends it") from error
        if not any(genuine):
            raise BadReceipt(
                f"the signature is not Twilio's: look at {self.section}.auth_token, and that http.public_url is the "
                "address that Twilio calls"
            )
        return {name: values[-1] for name, values in form.items()}

    async def check(self) -> str:
        """Read the account, to check the credentials. Raises SettingsError saying what is wrong with them."""
        reply = await self._http.get(f"{self._account}.json")
        url, sid = self._config.base_url, self._config.account_sid
        if not isinstance(reply, Answer):
            raise SettingsError(f"Twilio does not answer at {url}: {reply.detail}. Look at {self.section}.base_url.")
        if reply.status in (401, 403, 404):
            raise SettingsError(
                f"Twilio does not know the account {sid} with this token (HTTP status {reply.status}). Copy "
                f"{self.section}.account_sid and {self.section}.auth_token from the first page of Twilio's console."
            )
        if reply.status != 200:
            raise SettingsError(f"Twilio could not be asked about the account now: HTTP status {reply.status}.")
        try:
            status = _account.decode(reply.body).status
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise SettingsError(f"what answers at {url} is not Twilio. Look at {self.section}.base_url.") from error
        if status != "active":
            raise SettingsError(f"Twilio says that the account {sid} is {status}; only an active one can send.")
        if not self._wants_receipts:
            return (
                f"Twilio knows the account {sid}. It will send no receipts, because http.public_url is not an address "
                "that it can reach."
            )
        return f"Twilio knows the account {sid}."

    async def close(self) -> None:
        """Free the connections."""
        await self._http.close()


def _spellings(url: str) -> Iterator[str]:
    """The URL as it is, and with the port added or left out."""
    parts = urlsplit(url)
    host = parts.netloc
    if parts.port is None:
        yield url
        yield urlunsplit(parts._replace(netloc=f"{host}:{443 if parts.scheme == 'https' else 80}"))
    else:
        yield url
        yield urlunsplit(parts._replace(netloc=host.rpartition(":")[0]))
