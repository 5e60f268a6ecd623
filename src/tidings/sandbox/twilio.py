"""A stand-in for Twilio's API 2010-04-01: creates and reads messages, and shows the account for a check of credentials.

Wire format: https://www.twilio.com/docs/messaging/api/message-resource; error codes: https://www.twilio.com/docs/api/errors.
"""

from __future__ import annotations

import base64
import re
import secrets
import time
from email.utils import formatdate
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from tidings.policy.sms import segments
from tidings.sandbox.arrivals import REFUSED, Arrival, ArrivalLog, Parts
from tidings.sandbox.credentials import Credentials
from tidings.sandbox.faults import Fault, Faults, Kind, Vendor
from tidings.sandbox.magic import SMS_PLAN, SMS_PLANS, SMS_REFUSALS, SMS_SENDERS, Step, not_delivered
from tidings.sandbox.receipts import STATUS_URL, Receipts
from tidings.sandbox.wire import Answer, Headers, Request, json_answer, retry_after

MAX_BODY = 1024 * 1024
VERSION = "2010-04-01"
_MAX_TEXT = 1600
_LONGEST_KEPT_S = 36_000
_E164 = re.compile(r"\+[1-9]\d{6,14}")
_SENDER_NAME = re.compile(r"(?=.*[A-Za-z])[A-Za-z0-9 +\-_&]{1,11}")
_SERVICE = re.compile(r"MG[0-9a-f]{32}")
_SHORT_CODE = re.compile(r"\d{3,8}")
_UNDELIVERED = 30005

_ERRORS: dict[int, tuple[int, str]] = {
    20003: (401, "Authenticate"),
    20005: (403, "Account not active"),
    20404: (404, "The requested resource {} was not found"),
    20429: (429, "Too Many Requests"),
    20500: (500, "Internal Server Error"),
    20503: (503, "Service unavailable"),
    21211: (400, "Invalid 'To' Phone Number: {}"),
    21212: (400, "Invalid From Number (caller ID): {}"),
    21266: (400, "'To' and 'From' number cannot be the same: {}"),
    21408: (400, "Permission to send an SMS has not been enabled for the region indicated by the 'To' number: {}"),
    21602: (400, "Message body is required."),
    21603: (400, "A 'From' phone number is required."),
    21604: (400, "A 'To' phone number is required."),
    21606: (400, "The 'From' phone number provided ({}) is not a valid message-capable number for this destination."),
    21608: (400, "The number {} is unverified. Trial accounts cannot send messages to unverified numbers."),
    21609: (400, "The 'StatusCallback' URL {} is not a valid URL."),
    21610: (400, "Attempt to send to unsubscribed recipient"),
    21611: (429, "This 'From' number has exceeded the maximum number of queued messages"),
    21612: (400, "Message cannot be sent with the current combination of 'To' ({}) and/or 'From' parameters"),
    21614: (400, "'To' number is not a valid mobile number: {}"),
    21617: (400, "The concatenated message body exceeds the 1600 character limit"),
    21624: (400, "ValidityPeriod {} is not a number of seconds between 1 and 36000"),
    21635: (400, "'To' number cannot be a landline: {}"),
    21659: (400, "'From' is not a Twilio phone number or Short Code country mismatch"),
    21660: (400, "Mismatch between the 'From' number and the account"),
    21661: (400, "'From' number is not SMS-capable"),
    21701: (400, "The Messaging Service does not exist"),
}


class Twilio:
    """The imaginary account."""

    def __init__(self, credentials: Credentials, log: ArrivalLog, faults: Faults, receipts: Receipts) -> None:
        self._sid = credentials.twilio_account_sid
        pair = f"{self._sid}:{credentials.twilio_auth_token}".encode()
        self._authorization = b"Basic " + base64.b64encode(pair)
        self._from = credentials.twilio_from_number
        self._log = log
        self._faults = faults
        self._receipts = receipts
        self.account_path = f"/{VERSION}/Accounts/{self._sid}"
        self.messages_path = f"{self.account_path}/Messages.json"
        self._dated = (0, "")

    def answer(self, request: Request) -> tuple[Answer, Fault | None]:
        """Answer any request under `/2010-04-01/`."""
        if not self._authorized(request.header(b"authorization")):
            return refusal(20003), None
        if request.path == self.messages_path:
            return self._create(request) if request.method == "POST" else (self._list(), None)
        return self._read(request), None

    def _authorized(self, given: bytes) -> bool:
        if given == self._authorization:
            return True
        scheme, _, value = given.partition(b" ")
        return scheme.lower() == b"basic" and value == self._authorization[6:]

    def _create(self, request: Request) -> tuple[Answer, Fault | None]:
        fields = dict(parse_qsl(request.body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=100))
        to = fields.get("To", "")
        problem = self._problem(fields)
        if problem is not None:
            return problem, None
        fault = self._faults.on_request(Vendor.TWILIO, (to,))
        arrival = self._arrival(request, fields)
        refused = self._refused(fault, fields)
        if refused is not None:
            code, answer = refused
            arrival.status, arrival.error, arrival.reference = REFUSED, str(code), ""
            self._log.add((arrival,))
            return answer, None
        if fault is None or fault.takes:
            self._log.add((arrival,))
            self._decide(arrival)
        return json_answer(201, self._resource(arrival)), fault

    def _problem(self, fields: dict[str, str]) -> Answer | None:
        """The error in the form, or None."""
        to, sender, service = fields.get("To", ""), fields.get("From", ""), fields.get("MessagingServiceSid", "")
        body = fields.get("Body", "")
        if not to:
            return refusal(21604)
        if not sender and not service:
            return refusal(21603)
        if not _E164.fullmatch(to):
            return refusal(21211, to)
        if service and not _SERVICE.fullmatch(service):
            return refusal(21701)
        if sender and sender != self._from:
            if sender in SMS_SENDERS:
                return refusal(SMS_SENDERS[sender], sender)
            if not (_SENDER_NAME.fullmatch(sender) or _SHORT_CODE.fullmatch(sender)):
                return refusal(21606 if _E164.fullmatch(sender) else 21212, sender)
        if to == sender:
            return refusal(21266, to)
        if not body and not fields.get("MediaUrl") and not fields.get("ContentSid"):
            return refusal(21602)
        if len(body) > _MAX_TEXT:
            return refusal(21617)
        kept = fields.get("ValidityPeriod", "")
        if "ValidityPeriod" in fields and not (
            kept.isascii() and kept.isdigit() and 1 <= int(kept[:9]) <= _LONGEST_KEPT_S
        ):
            return refusal(21624, kept)
        url = fields.get("StatusCallback", "")
        if url and not url.startswith(("http://", "https://")):
            return refusal(21609, url)
        return None

    def _refused(self, fault: Fault | None, fields: dict[str, str]) -> tuple[int, Answer] | None:
        if fault is not None and fault.kind is Kind.STATUS:
            status = fault.status if fault.code is not None else fault.status or 503
            code = int(fault.code or {401: 20003, 404: 20404, 429: 20429, 503: 20503}.get(status or 503, 20500))
            return code, refusal(code, fields["To"], status=status, headers=retry_after(fault.retry_after))
        magic = SMS_REFUSALS.get(fields["To"])
        if magic is None:
            return None
        code = magic[1]
        return code, refusal(code, fields["To"], headers=retry_after(1) if code == 20429 else ())

    def _decide(self, arrival: Arrival) -> None:
        fault = self._faults.later(Vendor.TWILIO, arrival.to)
        steps: tuple[Step, ...] = SMS_PLAN
        if fault is not None and fault.kind is Kind.BOUNCE:
            steps = not_delivered(int(fault.code or _UNDELIVERED))
        elif (magic := SMS_PLANS.get(arrival.to)) is not None:
            steps = magic[1]
        self._receipts.plan(arrival, steps, fault)

    def _arrival(self, request: Request, fields: dict[str, str]) -> Arrival:
        url = fields.get("StatusCallback", "")
        query = urlsplit(url).query if "?" in url else ""
        tags = dict(parse_qsl(query)) if query else {}
        if url:
            tags[STATUS_URL] = url
        key = request.header(b"i-twilio-idempotency-token") or request.header(b"idempotency-key")
        return Arrival(
            seq=0,
            at=0,
            channel="sms",
            vendor="twilio",
            to=fields["To"],
            sender=fields.get("From", "") or fields.get("MessagingServiceSid", ""),
            body=Parts(text=fields.get("Body", "")),
            status="queued" if fields.get("From") else "accepted",
            reference=f"SM{secrets.token_hex(16)}",
            key=key.decode("latin-1"),
            tags=tags,
            bytes=len(request.body),
            ttl_s=int(fields["ValidityPeriod"]) if "ValidityPeriod" in fields else None,
        )

    def _read(self, request: Request) -> Answer:
        if request.path == f"{self.account_path}.json":
            return json_answer(
                200,
                {
                    "sid": self._sid,
                    "friendly_name": "Tidings sandbox",
                    "status": "active",
                    "type": "Full",
                    "owner_account_sid": self._sid,
                    "uri": f"{self.account_path}.json",
                },
            )
        prefix = f"{self.account_path}/Messages/"
        if request.path.startswith(prefix) and request.path.endswith(".json"):
            arrival = self._log.by_reference(request.path[len(prefix) : -len(".json")])
            if arrival is not None and arrival.vendor == "twilio":
                return json_answer(200, self._resource(arrival))
        return refusal(20404, request.path)

    def _list(self) -> Answer:
        newest = self._log.newest(1000)
        page = [arrival for arrival in newest if arrival.vendor == "twilio" and arrival.reference][-50:]
        return json_answer(
            200,
            {
                "messages": [self._resource(arrival) for arrival in reversed(page)],
                "page": 0,
                "page_size": 50,
                "start": 0,
                "end": max(0, len(page) - 1),
                "uri": self.messages_path,
                "first_page_uri": self.messages_path,
                "next_page_uri": None,
                "previous_page_uri": None,
            },
        )

    def _resource(self, arrival: Arrival) -> dict[str, Any]:
        """The message resource that shows an arrival."""
        text = arrival.body.text if isinstance(arrival.body, Parts) else ""
        uri = f"{self.account_path}/Messages/{arrival.reference}"
        service = arrival.sender.startswith("MG")
        made = self._date(arrival.at // 1000 if arrival.at else int(time.time()))
        return {
            "account_sid": self._sid,
            "api_version": VERSION,
            "body": text,
            "date_created": made,
            "date_sent": made if arrival.status in ("sent", "delivered", "undelivered") else None,
            "date_updated": made,
            "direction": "outbound-api",
            "error_code": int(arrival.error) if arrival.error.isdigit() else None,
            "error_message": None,
            "from": None if service else arrival.sender,
            "messaging_service_sid": arrival.sender if service else None,
            "num_media": "0",
            "num_segments": str(max(1, segments(text).segments)),
            "price": None,
            "price_unit": "USD",
            "sid": arrival.reference,
            "status": arrival.status,
            "subresource_uris": {"media": f"{uri}/Media.json"},
            "to": arrival.to,
            "uri": f"{uri}.json",
        }

    def _date(self, second: int) -> str:
        """The second as a date in RFC 2822, as Twilio writes it. The last one is cached."""
        if self._dated[0] != second:
            self._dated = (second, formatdate(second).replace("-0000", "+0000"))
        return self._dated[1]


def refusal(code: int, value: str = "", status: int | None = None, headers: Headers = ()) -> Answer:
    """An error in Twilio's words."""
    usual, text = _ERRORS.get(code, (status or 400, "The request could not be served"))
    return json_answer(
        status or usual,
        {
            "code": code,
            "message": text.format(value),
            "more_info": f"https://www.twilio.com/docs/errors/{code}",
            "status": status or usual,
        },
        headers,
    )
