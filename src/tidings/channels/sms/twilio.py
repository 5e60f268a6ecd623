"""Twilio: text messages by its Messages resource, one request for each.

Facts, and Twilio's page for each (below https://www.twilio.com/docs):

- The request, its parameters and the answer 201 with the message's `sid`: `messaging/api/message-resource`.
- Errors are JSON with `code` and `message`: `usage/twilios-response`; the codes: `api/errors/<code>`.
- 429 and code 20429 when there were too many requests at once: `api/errors/20429`.
- Status callbacks, their `MessageStatus` and `ErrorCode`: `messaging/guides/track-outbound-message-status` and
  `messaging/guides/outbound-message-status-in-status-callbacks`.
- Their signature, HMAC-SHA1 over the URL and the sorted parameters with the auth token:
  `usage/webhooks/webhooks-security`. Whether the port is part of the URL varies, so both are accepted, as Twilio's own
  libraries do.
- The account, which `check` asks for: `iam/api/account`.

The Messages resource knows no idempotency key, so a request without an answer stays uncertain.
"""

from __future__ import annotations

import hmac
from base64 import b64encode
from collections.abc import Iterator, Sequence
from typing import ClassVar
from urllib.parse import parse_qs, quote, quote_plus, urlsplit, urlunsplit

import msgspec
from msgspec import Struct
from pydantic import Field, model_validator

from tidings.channels.http import Answer, HttpClient, brief, by_status, retry_after
from tidings.channels.parallel import NOT_BEGUN, in_parallel
from tidings.channels.settings import HttpProviderConfig, HttpUrl, Token, is_private
from tidings.channels.tools import Tools
from tidings.model.errors import BadId, BadReceipt, SettingsError
from tidings.model.ids import DELIVERY_PREFIX, from_text, to_text
from tidings.model.sending import InboundRequest, Receipt, Rejected, Retry, SendResult, Sent, SmsDelivery, Uncertain
from tidings.model.vocabulary import State
from tidings.ports.provider import SmsProvider

_MOST_PARAMETERS = 100
_VERSION = "/2010-04-01"
_STATES = {
    "sent": (State.SENT, "sent"),
    "delivered": (State.DELIVERED, "delivered"),
    "read": (State.DELIVERED, "opened"),
    "undelivered": (State.FAILED, "undelivered"),
    "failed": (State.FAILED, "failed"),
    "canceled": (State.FAILED, "cancelled"),
}


class TwilioConfig(HttpProviderConfig):
    """`providers.twilio`."""

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
    ERRORS: ClassVar = {
        20003: Retry("unauthorized"),
        20429: Retry("throttled"),
        21211: Rejected("invalid_number", suppress=True),
        21212: Rejected("invalid_sender", fallback=True),
        21408: Rejected("country_not_enabled", fallback=True),
        21606: Rejected("invalid_sender", fallback=True),
        21608: Rejected("trial_account", fallback=True),
        21609: Rejected("invalid_receipts_url"),
        21610: Rejected("opted_out", suppress=True),
        21611: Retry("queue_full"),
        21612: Rejected("no_route", fallback=True),
        21614: Rejected("not_a_mobile_number", suppress=True),
        21617: Rejected("too_long"),
        30001: Retry("queue_full"),
        30002: Rejected("account_suspended", fallback=True),
        30003: Rejected("unreachable"),
        30004: Rejected("blocked", fallback=True),
        30005: Rejected("unknown_number", suppress=True),
        30006: Rejected("landline_or_unreachable", suppress=True),
        30007: Rejected("filtered", fallback=True),
        30008: Rejected("unknown_error", fallback=True),
    }

    def __init__(self, config: TwilioConfig, tools: Tools) -> None:
        """Send with `config`; receipts come to `tools.receipts_url`."""
        self.name, self.rate = tools.name, config.rate
        self.batch_size = min(32, config.concurrency)
        self.parallel = self.batch_size
        self.concurrency = config.concurrency // self.batch_size
        self.timeout = 2 * config.timeout
        self._request_timeout = config.timeout
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
        # Twilio refuses to send at all with a callback to an address that it cannot reach (21609), so a person who
        # tries their account out from a laptop gets no receipts rather than no messages.
        self._wants_receipts = is_private(config.base_url) or not is_private(tools.receipts_url)
        if self._wants_receipts:
            self._start += f"&StatusCallback={quote(tools.receipts_url, safe='')}%3Fdelivery%3D"

    async def send(self, batch: Sequence[SmsDelivery]) -> Sequence[SendResult]:
        """One request for each, up to `batch_size` at once."""
        return await in_parallel(
            batch, self._send, NOT_BEGUN, limit=self.batch_size * self.concurrency, within=self._request_timeout
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
        # The parts that never change are encoded once: urlencode of the whole form costs four times as much.
        text = f"&To={quote_plus(delivery.to)}&Body={quote_plus(delivery.content.text)}"
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
        known = self.ERRORS.get(error.code) if error.code is not None else None
        if known is None:
            said = f"{error.code}: {error.message}" if error.code is not None else error.message
            return by_status(answer, self._clock, said)
        detail = brief(f"{error.code}: {error.message}")
        if isinstance(known, Retry):
            return Retry(known.reason, retry_after(answer, self._clock), detail)
        return msgspec.structs.replace(known, detail=detail)

    def receipts(self, request: InboundRequest) -> list[Receipt]:
        """What a status callback says; nothing for a status on the way. Raises BadReceipt when it is not Twilio's."""
        form = self._verified(request)
        where = parse_qs(urlsplit(request.url).query)
        try:
            delivery_id = from_text(DELIVERY_PREFIX, where["delivery"][0])
            tenant, attempt = where["tenant"][0], int(where["attempt"][0][:9])
        except (KeyError, ValueError, BadId) as error:
            raise BadReceipt("Twilio signed this, but its URL does not name a delivery of ours") from error
        found = _STATES.get(form.get("MessageStatus", ""))
        if found is None:
            return []
        state, kind = found
        reason, detail, suppress = "", "", False
        if state is State.FAILED:
            reason, detail, suppress = self._failure(form.get("ErrorCode", ""), kind)
        return [
            Receipt(
                delivery_id=delivery_id,
                tenant=tenant,
                state=state,
                kind=kind,
                attempt=attempt,
                reason=reason,
                detail=detail,
                reference=form.get("MessageSid", ""),
                address=form.get("To") or None,
                suppress=suppress,
            )
        ]

    def _failure(self, code: str, kind: str) -> tuple[str, str, bool]:
        known = self.ERRORS.get(int(code)) if code.isascii() and code.isdigit() and len(code) < 9 else None
        detail = brief(f"error {code}") if code else ""
        if known is None:
            return kind, detail, False
        return known.reason, detail, isinstance(known, Rejected) and known.suppress

    def _verified(self, request: InboundRequest) -> dict[str, str]:
        """The form, when the signature is Twilio's."""
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
        """Ask for the account. Raises SettingsError saying what is wrong with the credentials."""
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
    """The URL with the port spelled out, and without."""
    parts = urlsplit(url)
    host = parts.netloc
    if parts.port is None:
        yield url
        yield urlunsplit(parts._replace(netloc=f"{host}:{443 if parts.scheme == 'https' else 80}"))
    else:
        yield url
        yield urlunsplit(parts._replace(netloc=host.rpartition(":")[0]))
