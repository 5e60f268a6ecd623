"""A stand-in for SendGrid's Web API v3: `POST /v3/mail/send`, and `GET /v3/scopes` for a check of credentials.

Wire format and errors: https://www.twilio.com/docs/sendgrid/api-reference/mail-send/mail-send and
https://www.twilio.com/docs/sendgrid/api-reference/mail-send/errors. Errors have SendGrid's own words, so that code
which reads them can be tested here.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from msgspec import Struct, field

from tidings.sandbox.arrivals import REFUSED, Arrival, ArrivalLog, Parts
from tidings.sandbox.credentials import Credentials
from tidings.sandbox.faults import Fault, Faults, Kind, Vendor
from tidings.sandbox.magic import (
    BOUNCED,
    EMAIL_PLAN,
    EMAIL_PLANS,
    EMAIL_REFUSALS,
    PROCESSED,
    Step,
    bounced,
    email_word,
)
from tidings.sandbox.receipts import Receipts
from tidings.sandbox.wire import UNREADABLE, Answer, Headers, Request, json_answer, retry_after, tags_of

MAX_BODY = 30 * 1024 * 1024
_MAX_PERSONALIZATIONS = 1000
_MAX_RECIPIENTS = 1000
_MAX_TAGS = 10_000
_HELP = "http://sendgrid.com/docs/API_Reference/Web_API_v3/Mail/errors.html#message."
_ADDRESS = re.compile(r"[^@\s<>\",;:\\()\[\]\x00-\x1f]{1,64}@(?:[^@\s.<>\",;\x00-\x1f]+\.)+[^@\s.<>\",;\x00-\x1f]{2,}")
_WRONG_TYPE = re.compile(r"Expected `([^`]+)`, got `([^`]+)`(?: - at `([^`]+)`)?")
_UNKNOWN = re.compile(r"Object contains unknown field `([^`]+)`(?: - at `([^`]+)`)?")
_MISSING = re.compile(r"Object missing required field `([^`]+)`(?: - at `([^`]+)`)?")
_TYPES = {"str": "string", "int": "integer", "float": "number", "bool": "boolean"}
_RESERVED = frozenset(
    {"x-sg-id", "x-sg-eid", "received", "dkim-signature", "content-type", "content-transfer-encoding"}
    | {"to", "from", "subject", "reply-to", "cc", "bcc"}
)


class Address(Struct, gc=False, forbid_unknown_fields=True):
    """An email address with a display name."""

    email: str
    name: str | None = None


class Content(Struct, gc=False, forbid_unknown_fields=True):
    """One part of the mail's content."""

    type: str
    value: str


class Personalization(Struct, forbid_unknown_fields=True):
    """The recipients of one copy of the mail, and what differs in it."""

    to: list[Address] = []
    cc: list[Address] = []
    bcc: list[Address] = []
    sender: Address | None = field(name="from", default=None)
    subject: str | None = None
    headers: dict[str, str] | None = None
    substitutions: dict[str, str] | None = None
    dynamic_template_data: dict[str, Any] | None = None
    custom_args: dict[str, Any] | None = None
    send_at: int | None = None


class MailSend(Struct, forbid_unknown_fields=True):
    """The body of the request."""

    personalizations: list[Personalization] = []
    sender: Address | None = field(name="from", default=None)
    reply_to: Address | None = None
    reply_to_list: list[Address] | None = None
    subject: str | None = None
    content: list[Content] | None = None
    attachments: list[dict[str, Any]] | None = None
    template_id: str | None = None
    sections: dict[str, str] | None = None
    headers: dict[str, str] | None = None
    categories: list[str] | None = None
    custom_args: dict[str, Any] | None = None
    send_at: int | None = None
    batch_id: str | None = None
    asm: dict[str, Any] | None = None
    ip_pool_name: str | None = None
    mail_settings: dict[str, Any] | None = None
    tracking_settings: dict[str, Any] | None = None


class SendGrid:
    """The imaginary account."""

    def __init__(self, credentials: Credentials, log: ArrivalLog, faults: Faults, receipts: Receipts) -> None:
        self._authorization = f"Bearer {credentials.sendgrid_api_key}".encode()
        self._log = log
        self._faults = faults
        self._receipts = receipts
        self._decoder = msgspec.json.Decoder(MailSend)

    def scopes(self, request: Request) -> Answer:
        """Answer `GET /v3/scopes`: what the key may do."""
        if request.header(b"authorization") != self._authorization:
            return _unauthorized()
        return json_answer(200, {"scopes": ["mail.send", "sender_verification_eligible"]})

    def send(self, request: Request) -> tuple[Answer, Fault | None]:
        """Answer `POST /v3/mail/send`."""
        if request.header(b"authorization") != self._authorization:
            return _unauthorized(), None
        try:
            mail = self._decoder.decode(request.body)
        except msgspec.ValidationError as error:
            return _errors(400, [_type_error(str(error))]), None
        except UNREADABLE:
            return _errors(400, [("Bad Request", None, None)]), None
        problems = list(_problems(mail))
        if problems:
            return _errors(400, problems), None
        recipients = [to.email for copy in mail.personalizations for to in _recipients(copy)]
        if _sandbox_mode(mail):
            return Answer(200, b""), None
        return self._take(request, mail, recipients)

    def too_large(self) -> Answer:
        """The answer to a body over 30 MB."""
        return _errors(413, [("Payload Too Large", None, None)])

    def _take(self, request: Request, mail: MailSend, recipients: list[str]) -> tuple[Answer, Fault | None]:
        fault = self._faults.on_request(Vendor.SENDGRID, recipients)
        reference = secrets.token_urlsafe(16)
        arrivals = _arrivals(request, mail, reference)
        refusal = self._refusal(fault, mail)
        if refusal is not None:
            for arrival in arrivals:
                arrival.status, arrival.error = REFUSED, str(refusal.status)
            self._log.add(arrivals)
            return refusal, None
        if fault is None or fault.takes:
            self._log.add(arrivals)
            for arrival in arrivals:
                self._decide(arrival)
        return Answer(202, b"", ((b"x-message-id", reference.encode()),)), fault

    def _refusal(self, fault: Fault | None, mail: MailSend) -> Answer | None:
        if fault is not None and fault.kind is Kind.STATUS:
            return failure(fault.status or 503, fault.retry_after)
        refused: dict[int, list[str]] = {}
        for position, copy in enumerate(mail.personalizations):
            for to in _recipients(copy):
                magic = EMAIL_REFUSALS.get(email_word(to.email))
                if magic is not None:
                    refused.setdefault(magic[1], []).append(f"personalizations.{position}.to.0.email")
        return next((failure(status, fields=fields) for status, fields in refused.items()), None)

    def _decide(self, arrival: Arrival) -> None:
        fault = self._faults.later(Vendor.SENDGRID, arrival.to)
        steps: tuple[Step, ...] = EMAIL_PLAN
        if fault is not None and fault.kind is Kind.BOUNCE:
            steps = (PROCESSED, BOUNCED if fault.code is None else bounced(str(fault.code)))
        else:
            magic = EMAIL_PLANS.get(email_word(arrival.to))
            if magic is not None:
                steps = magic[1]
        self._receipts.plan(arrival, steps, fault)


def failure(status: int, after_s: float | None = None, fields: Sequence[str] = ()) -> Answer:
    """A failure in SendGrid's words; after `after_s` it would serve again.

    `fields` name the recipients that a 429 is about; without them it is about the account.
    """
    headers = retry_after(after_s)
    text = {
        401: "The provided authorization grant is invalid, expired, or revoked",
        403: "The from address does not match a verified Sender Identity. Mail cannot be sent until this error is "
        "resolved.",
        404: "Not Found",
        405: "Method Not Allowed",
        413: "Payload Too Large",
        415: "Unsupported Media Type",
        429: "too many requests",
        500: "Internal Server Error",
        503: "Service Unavailable",
    }.get(status, "the request could not be served")
    if status == 429:
        reset = str(int(time.time() + (after_s or 1)) + 1).encode()
        headers = (*headers, (b"x-ratelimit-limit", b"600"), (b"x-ratelimit-remaining", b"0"))
        headers = (*headers, (b"x-ratelimit-reset", reset))
    named = fields if status == 429 else ()
    return _errors(status, [(text, field, None) for field in named] or [(text, None, None)], headers)


_Problem = tuple[str, str | None, str | None]


def _errors(status: int, problems: list[_Problem], headers: Headers = ()) -> Answer:
    errors = [
        {"message": text, "field": name, "help": f"{_HELP}{anchor}" if anchor else None}
        for text, name, anchor in problems
    ]
    return json_answer(status, {"errors": errors}, headers)


def _unauthorized() -> Answer:
    return _errors(401, [("The provided authorization grant is invalid, expired, or revoked", None, None)])


def _recipients(copy: Personalization) -> Iterator[Address]:
    yield from copy.to
    yield from copy.cc
    yield from copy.bcc


def _sandbox_mode(mail: MailSend) -> bool:
    mode = (mail.mail_settings or {}).get("sandbox_mode")
    return isinstance(mode, dict) and mode.get("enable") is True


def _arrivals(request: Request, mail: MailSend, reference: str) -> list[Arrival]:
    texts = {part.type: part.value for part in mail.content or ()}
    text, html = texts.get("text/plain", ""), texts.get("text/html", "")
    headers = {name.lower(): value for name, value in (mail.headers or {}).items()}
    key = request.header(b"idempotency-key").decode("latin-1")
    common = tags_of(mail.custom_args)
    size_bytes = len(request.body) // max(1, len(mail.personalizations))
    arrivals = []
    for copy in mail.personalizations:
        sender = copy.sender or mail.sender
        own = {name.lower(): value for name, value in (copy.headers or {}).items()}
        tags = {**common, **tags_of(copy.custom_args)} if copy.custom_args else common
        for to in _recipients(copy):
            parts = Parts(
                title=copy.subject or mail.subject or "",
                text=text,
                html=html,
                to_name=to.name or "",
                from_name=(sender.name if sender else None) or "",
                substitutions=copy.substitutions or {},
            )
            arrivals.append(
                Arrival(
                    seq=0,
                    at=0,
                    channel="email",
                    vendor="sendgrid",
                    to=to.email,
                    sender=sender.email if sender else "",
                    body=parts,
                    reference=reference,
                    key=key or own.get("idempotency-key") or headers.get("idempotency-key", ""),
                    tags=tags,
                    bytes=size_bytes,
                )
            )
    return arrivals


def _problems(mail: MailSend) -> Iterator[_Problem]:
    """The errors in a body whose types are right."""
    if mail.sender is None or not mail.sender.email:
        text = (
            "The from object must be provided for every email send. It is an object that requires the email "
            'parameter, but may also contain a name parameter.  e.g. {"email" : "example@example.com"}  or '
            '{"email" : "example@example.com", "name" : "Example Recipient"}.'
        )
        yield text, "from.email", "from"
    elif not _ADDRESS.fullmatch(mail.sender.email):
        yield "The from email does not contain a valid address.", "from.email", "from"
    yield from _content_problems(mail)
    copies = len(mail.personalizations)
    if not copies:
        text = "The personalizations field is required and must have at least one personalization."
        yield text, "personalizations", "personalizations"
    elif copies > _MAX_PERSONALIZATIONS:
        text = f"There are too many personalizations, the maximum is {_MAX_PERSONALIZATIONS}."
        yield text, "personalizations", "personalizations"
    total = 0
    for position, copy in enumerate(mail.personalizations):
        total += len(copy.to) + len(copy.cc) + len(copy.bcc)
        yield from _personalization_problems(mail, copy, f"personalizations.{position}")
    if total > _MAX_RECIPIENTS:
        yield f"The total number of recipients must be no more than {_MAX_RECIPIENTS}.", "personalizations", None


def _content_problems(mail: MailSend) -> Iterator[_Problem]:
    if not mail.content and not mail.template_id:
        text = (
            "Unless a valid template_id is provided, the content parameter is required. There must be at least one "
            "defined content block. We typically suggest both text/plain and text/html blocks are included, but only "
            "one block is required."
        )
        yield text, "content", "content"
    for position, part in enumerate(mail.content or ()):
        if not part.value:
            text = "The content value must be a string at least one character in length."
            yield text, f"content.{position}.value", "content.value"
        if "/" not in part.type:
            yield "The content type must be a valid MIME type.", f"content.{position}.type", "content.type"
    kinds = [part.type for part in mail.content or ()]
    if "text/plain" in kinds and "text/html" in kinds and kinds.index("text/html") < kinds.index("text/plain"):
        text = "If present, text/plain must be first, followed by text/html, followed by any other content."
        yield text, "content", "content"
    for name in mail.headers or ():
        if name.lower() in _RESERVED:
            yield f"The header {name} is reserved and cannot be set.", f"headers.{name}", "headers"


def _personalization_problems(mail: MailSend, copy: Personalization, path: str) -> Iterator[_Problem]:
    if not copy.to:
        text = "The to array is required for all personalization objects, and must have at least one email object."
        yield text, f"{path}.to", "personalizations.to"
    seen: set[str] = set()
    for kind, addresses in (("to", copy.to), ("cc", copy.cc), ("bcc", copy.bcc)):
        for position, address in enumerate(addresses):
            place = f"{path}.{kind}.{position}.email"
            if not _ADDRESS.fullmatch(address.email):
                yield "Does not contain a valid address.", place, f"personalizations.{kind}"
            folded = address.email.lower()
            if folded in seen:
                text = (
                    "Each email address in the personalization block should be unique between to, cc, and bcc. We "
                    f"found the first duplicate instance of [{folded}] in the {path}.{kind} field."
                )
                yield text, path, "personalizations"
            seen.add(folded)
    if not (copy.subject or mail.subject or mail.template_id):
        text = (
            "The subject is required. You can get around this requirement if you use a template with a subject "
            "defined or if every personalization has a subject defined."
        )
        yield text, "subject", "subject"
    tags = copy.custom_args
    if tags and len(tags) > 1 and len(msgspec.json.encode(tags)) > _MAX_TAGS:
        text = "The total size of the custom arguments must be less than 10,000 bytes."
        yield text, f"{path}.custom_args", "personalizations.custom_args"


def _type_error(text: str) -> _Problem:
    """Msgspec's message about a wrong type, in SendGrid's words."""
    if found := _WRONG_TYPE.search(text):
        expected, given, path = found.groups()
        wanted = _TYPES.get(expected.split(" | ")[0], expected.split(" | ")[0])
        return f"Invalid type. Expected: {wanted}, given: {_TYPES.get(given, given)}.", _dotted(path), None
    if found := _UNKNOWN.search(text):
        place = f"{_dotted(found[2]) or ''}.{found[1]}".lstrip(".")
        return f"Additional property {found[1]} is not allowed", place, None
    if found := _MISSING.search(text):
        place = f"{_dotted(found[2]) or ''}.{found[1]}".lstrip(".")
        return f"The {found[1]} field is required.", place, None
    return "Bad Request", None, None


def _dotted(path: str | None) -> str | None:
    """SendGrid's form of a JSON path: `to.0.email` for `$.to[0].email`."""
    if path is None:
        return None
    return path.removeprefix("$").replace("[", ".").replace("]", "").lstrip(".") or None
