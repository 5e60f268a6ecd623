"""Sends email through SendGrid's v3 Mail Send API. Deliveries with equal content go out in one request.

Facts, and SendGrid's page for each (below https://www.twilio.com/docs/sendgrid):

- The request and its answer 202 with `X-Message-Id`: `api-reference/mail-send/mail-send`.
- At most 1,000 personalizations in a request; errors are status 400 with `errors[].field` and `errors[].message`:
  `api-reference/mail-send/errors`.
- The recipient of one personalization does not see the others, and each personalization may have custom arguments:
  `for-developers/sending-email/personalizations`.
- 401 and 403 are the account's fault (key, sender identity, a temporary block), so everything waits until somebody
  corrects it: `api-reference/how-to-use-the-sendgrid-v3-api/responses`.
- 429 with `X-RateLimit-Reset` in seconds since the epoch is about the account, unless its errors name recipients:
  `api-reference/how-to-use-the-sendgrid-v3-api/rate-limits`.
- Events: see `sendgrid_events.py`.
- The key's scopes, which `check` reads: `api-reference/api-key-permissions/retrieve-a-list-of-scopes-for-which-this-
  user-has-access`.

Mail Send has no idempotency key, so a request without an answer stays uncertain.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar

import msgspec
from msgspec import UNSET, Struct, UnsetType
from pydantic import Field, field_validator

from tidings.channels.email import sendgrid_events as events
from tidings.channels.email.headers import one_line, split_address
from tidings.channels.errors import ACCOUNT_WAIT_S, follow
from tidings.channels.http import Answer, HttpClient, brief, by_status, retry_after_s, throttled
from tidings.channels.parallel import NOT_BEGUN, in_parallel
from tidings.channels.settings import HttpProviderConfig, HttpUrl, Mailbox, OneLine, Token
from tidings.channels.tools import Tools
from tidings.model.errors import SettingsError
from tidings.model.notification import EmailContent
from tidings.model.sending import (
    NAMELESS,
    About,
    EmailDelivery,
    InboundRequest,
    Receipt,
    Rejected,
    Retry,
    SendResult,
    Sent,
)
from tidings.ports.provider import EmailProvider

MOST_PERSONALIZATIONS = 1000
_AT_ONCE_PER_SEND = 64
_MOST_ROUNDS = 3
_TOO_MANY = 429
_PERSONALIZATION = re.compile(r"personalizations\.(\d{1,4})(?:(\.to\.\d+\.email$)|\.|$)")
_SCOPE = "mail.send"


class SendgridConfig(HttpProviderConfig):
    """The settings in `providers.sendgrid`."""

    api_key: Token = Field(description='an API key with the permission "Mail Send"; it starts with SG.')
    from_address: Mailbox = Field(description="the sender's address; SendGrid must have verified it or its domain")
    from_name: OneLine | None = Field(default=None, description="the sender's name, as people see it")
    webhook_public_key: str | None = Field(
        default=None,
        description="the Verification Key of the Signed Event Webhook; without it receipts are refused",
    )
    webhook_tolerance_s: int = Field(
        default=900,
        ge=60,
        le=172_800,
        description="seconds by which the signed time of events may differ from ours; older ones are refused",
    )
    base_url: HttpUrl = Field(
        default="https://api.sendgrid.com",
        description="the API's address; https://api.eu.sendgrid.com for subusers in the EU",
    )

    @field_validator("webhook_public_key")
    @classmethod
    def _is_a_key(cls, value: str | None) -> str | None:
        if value is not None:
            events.load_key(value)
        return value


class _Mailbox(Struct, omit_defaults=True):
    email: str
    name: str | UnsetType = UNSET


class _Personalization(Struct):
    to: tuple[_Mailbox]
    custom_args: dict[str, str]


class _Part(Struct):
    type: str
    value: str


class _Mail(Struct):
    personalizations: list[_Personalization]
    sender: _Mailbox = msgspec.field(name="from")
    subject: str = ""
    content: list[_Part] = []


class _Problem(Struct):
    message: str = ""
    field: str | None = None


class _Problems(Struct):
    errors: list[_Problem] = []


class _Scopes(Struct):
    scopes: list[str]


_encode = msgspec.json.Encoder().encode
_problems = msgspec.json.Decoder(_Problems)
_scopes = msgspec.json.Decoder(_Scopes)


class Sendgrid(EmailProvider):
    """Sends through SendGrid."""

    kind = "sendgrid"
    Config: ClassVar[type[SendgridConfig]] = SendgridConfig
    ERRORS_PAGE = (
        "https://www.twilio.com/docs/sendgrid/api-reference/how-to-use-the-sendgrid-v3-api/responses and "
        "https://www.twilio.com/docs/sendgrid/for-developers/tracking-events/event"
    )
    ERRORS: ClassVar = {
        400: Rejected("refused", detail="the request is malformed"),
        "400 recipient": Rejected("invalid_address", suppress=True, detail="the recipient's address is not valid"),
        401: Retry("unauthorized", ACCOUNT_WAIT_S, "the API key is wrong or revoked, or may not send", About.UNOFFERED),
        403: Retry(
            "forbidden",
            ACCOUNT_WAIT_S,
            "the sender is not verified, or the account is blocked for a while",
            About.UNOFFERED,
        ),
        404: Rejected("wrong_api_address", fallback=True, detail="base_url is not SendGrid's"),
        405: Rejected("wrong_api_address", fallback=True, detail="base_url is not SendGrid's"),
        413: Rejected("too_large", fallback=True, detail="over 30 MB"),
        415: Rejected("wrong_api_address", fallback=True, detail="base_url is not SendGrid's"),
        429: Retry("throttled", None, "too many requests; with X-RateLimit-Reset or Retry-After all wait"),
        500: Retry("provider_error", None, "an error within the service"),
        503: Retry("unavailable", None, "the service is not available"),
    }
    EVENTS: ClassVar = events.EVENTS
    batch_size = MOST_PERSONALIZATIONS

    def __init__(self, config: SendgridConfig, tools: Tools) -> None:
        """A provider that sends with `config`."""
        self.name, self.rate = tools.name, config.rate
        self.parallel = min(_AT_ONCE_PER_SEND, config.concurrency)
        self.concurrency = config.concurrency // self.parallel
        # A batch may begin its last request shortly before its time is over, and repeat it without refused addresses.
        self.timeout_s = (1 + _MOST_ROUNDS) * config.timeout
        self._request_timeout_s = config.timeout
        self._config = config
        self._clock = tools.clock
        self._sender = _Mailbox(config.from_address, config.from_name or UNSET)
        self._key = None if config.webhook_public_key is None else events.load_key(config.webhook_public_key)
        headers = {
            "authorization": f"Bearer {config.api_key.get_secret_value()}",
            "content-type": "application/json",
            "accept": "application/json",
        }
        self._http = HttpClient(config.base_url, config, headers)

    async def send(self, batch: Sequence[EmailDelivery]) -> Sequence[SendResult]:
        """Send each different content in one request to all its recipients."""
        if len(batch) == 1:
            return await self._send_group(batch, [0])
        groups = _groups(batch)
        answers = await in_parallel(
            groups,
            lambda places: self._send_group(batch, places),
            None,
            limit=self.parallel,
            within_s=self._request_timeout_s,
        )
        results: list[SendResult] = [NOT_BEGUN] * len(batch)
        for places, answer in zip(groups, answers, strict=True):
            if answer is not None:
                for place, result in zip(places, answer, strict=True):
                    results[place] = result
        return results

    async def _send_group(self, batch: Sequence[EmailDelivery], places: Sequence[int]) -> list[SendResult]:
        """Send the deliveries at `places`, which have equal content, and return their results in that order.

        SendGrid takes a request whole or not at all. If it names recipients that it refuses, the request is repeated
        without them.
        """
        results: dict[int, SendResult] = {}
        rest: list[tuple[int, _Personalization]] = []
        for place in places:
            personalization = _personalization(batch[place])
            if isinstance(personalization, Rejected):
                results[place] = personalization
            else:
                rest.append((place, personalization))
        parts = _parts(batch[places[0]].content)
        if not parts:
            return [Rejected("no_content", detail="the email has neither text nor HTML")] * len(places)
        subject = one_line(batch[places[0]].content.subject)
        for _ in range(_MOST_ROUNDS):
            if not rest:
                break
            mail = _Mail([personalization for _, personalization in rest], self._sender, subject, parts)
            outcome, refused = await self._request(mail)
            if not 0 < len(refused) < len(rest):
                results |= {place: refused.get(at, outcome) for at, (place, _) in enumerate(rest)}
                rest = []
            else:
                results |= {rest[at][0]: result for at, result in refused.items()}
                rest = [pair for at, pair in enumerate(rest) if at not in refused]
        again = Retry("refused_with_others", detail="SendGrid kept refusing other recipients of the same request")
        results |= {place: again for place, _ in rest}
        return [results[place] for place in places]

    async def _request(self, mail: _Mail) -> tuple[SendResult, dict[int, SendResult]]:
        """The result of the request, and by number the results of the personalizations that SendGrid refuses."""
        try:
            body = _encode(mail)
        except UnicodeEncodeError:
            return Rejected("invalid_text", detail="the content is not valid Unicode"), {}
        reply = await self._http.post("/v3/mail/send", body)
        if not isinstance(reply, Answer):
            return reply, {}
        if reply.status == 202:
            return Sent(reply.header("x-message-id")), {}
        try:
            problems = _problems.decode(reply.body).errors
        except (msgspec.MsgspecError, UnicodeDecodeError):
            problems = []
        detail = brief("; ".join(": ".join(filter(None, (each.field, each.message))) for each in problems))
        known = self.ERRORS.get(reply.status)
        if known is None:
            return by_status(reply, self._clock, detail), {}
        asked_s, said = self._reset_s(reply), detail or f"HTTP status {reply.status}: {known.detail}"
        refused = self._refused(reply.status, problems, len(mail.personalizations), asked_s)
        if reply.status == _TOO_MANY:
            return throttled(None if refused else asked_s, said), refused
        return follow(known, said, asked_s), refused

    def _refused(
        self, status: int, problems: Sequence[_Problem], count: int, asked_s: float | None
    ) -> dict[int, SendResult]:
        """The results of the personalizations that `problems` name, by number. They are about recipients only."""
        refused: dict[int, SendResult] = {}
        for problem in problems:
            match = _PERSONALIZATION.match(problem.field or "")
            if match is None or int(match[1]) >= count:
                continue
            if status == _TOO_MANY:
                refused[int(match[1])] = follow(self.ERRORS[status], brief(problem.message), asked_s)
            elif status == 400:
                row = self.ERRORS["400 recipient" if match[2] else status]
                refused[int(match[1])] = follow(row, brief(problem.message))
        return refused

    def _reset_s(self, answer: Answer) -> float | None:
        """How long until SendGrid takes requests again; None when it does not say."""
        asked_s = retry_after_s(answer, self._clock)
        reset = answer.header("x-ratelimit-reset")
        if asked_s is None and answer.status == _TOO_MANY and reset.isascii() and reset.isdigit() and len(reset) < 15:
            return max(0.0, int(reset) - self._clock.now() / 1000)
        return asked_s

    def receipts(self, request: InboundRequest) -> list[Receipt]:
        """The receipts of events that name a delivery. Raises BadReceipt if the request is not SendGrid's."""
        return [receipt for receipt in self.receipts_with_unnamed(request) if receipt.delivery_id != NAMELESS]

    def receipts_with_unnamed(self, request: InboundRequest) -> list[Receipt]:
        """As `receipts`, and also the events without custom arguments, which only have a reference and an address."""
        receipts = events.read(request, self._key, f"{self.section}.webhook_public_key")
        events.check_time(request, self._clock.now(), self._config.webhook_tolerance_s, self.section)
        return receipts

    async def check(self) -> str:
        """Read what the API key may do. Raises SettingsError saying what is wrong with it."""
        reply = await self._http.get("/v3/scopes")
        url = self._config.base_url
        if not isinstance(reply, Answer):
            raise SettingsError(f"SendGrid does not answer at {url}: {reply.detail}. Look at {self.section}.base_url.")
        if reply.status in (401, 403):
            raise SettingsError(
                f"SendGrid refuses {self.section}.api_key (HTTP status {reply.status}). Make a new API key with "
                'the permission "Mail Send" and copy it whole; it starts with SG.'
            )
        if reply.status != 200:
            raise SettingsError(f"SendGrid could not be asked about the key now: HTTP status {reply.status}.")
        try:
            scopes = _scopes.decode(reply.body).scopes
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise SettingsError(f"what answers at {url} is not SendGrid. Look at {self.section}.base_url.") from error
        if _SCOPE not in scopes:
            raise SettingsError(
                f'{self.section}.api_key may not send: give the key the permission "Mail Send" in SendGrid.'
            )
        if self._key is None:
            return f"SendGrid takes the key. Its receipts are refused until {self.section}.webhook_public_key is set."
        return "SendGrid takes the key, and it may send."

    async def close(self) -> None:
        """Free the connections."""
        await self._http.close()


def _groups(batch: Sequence[EmailDelivery]) -> list[list[int]]:
    """The places of the deliveries that can share a request: equal content, each address once."""
    open_groups: dict[EmailContent, tuple[list[int], set[str]]] = {}
    groups: list[list[int]] = []
    for place, delivery in enumerate(batch):
        address = delivery.to.lower()
        group = open_groups.get(delivery.content)
        if group is None or address in group[1] or len(group[0]) == MOST_PERSONALIZATIONS:
            group = ([], set())
            open_groups[delivery.content] = group
            groups.append(group[0])
        group[0].append(place)
        group[1].add(address)
    return groups


def _personalization(delivery: EmailDelivery) -> _Personalization | Rejected:
    if split_address(delivery.to) is None:
        return Rejected("invalid_address", detail="this is not one plain email address")
    name = one_line(delivery.name) if delivery.name else ""
    return _Personalization(
        (_Mailbox(delivery.to, name or UNSET),),
        events.custom_arguments(delivery),
    )


def _parts(content: EmailContent) -> list[_Part]:
    """The parts of the content, the plain one first, as SendGrid demands; empty ones, which it refuses, left out."""
    parts = []
    if content.text:
        parts.append(_Part("text/plain", content.text))
    if content.html:
        parts.append(_Part("text/html", content.html))
    return parts
