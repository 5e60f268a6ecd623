"""A stand-in for Firebase Cloud Messaging's HTTP v1 API, with the OAuth 2.0 token endpoint for service accounts.

Wire format: https://firebase.google.com/docs/reference/fcm/rest/v1/projects.messages/send and
https://firebase.google.com/docs/reference/fcm/rest/v1/ErrorCode; tokens: RFC 7523, as in
https://developers.google.com/identity/protocols/oauth2/service-account.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from tidings.sandbox.arrivals import REFUSED, Arrival, ArrivalLog, Parts
from tidings.sandbox.credentials import Credentials
from tidings.sandbox.faults import Fault, Faults, Kind, Vendor
from tidings.sandbox.magic import PUSH_REFUSALS, token_word
from tidings.sandbox.wire import JSON, UNREADABLE, Answer, Headers, Request, json_answer, retry_after, tags_of

MAX_BODY = 1024 * 1024
MAX_PAYLOAD = 4096
_LONGEST_KEPT_S = 28 * 86_400
_DURATION = re.compile(r"\d{1,12}(?:\.\d{1,9})?s")
_PRIORITIES = frozenset({"high", "normal"})
TOKEN_PATH = "/token"  # noqa: S105 - a path
_LIFETIME_S = 3599
_GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
_SCOPES = frozenset(
    {"https://www.googleapis.com/auth/firebase.messaging", "https://www.googleapis.com/auth/cloud-platform"}
)
_FCM_ERROR = "type.googleapis.com/google.firebase.fcm.v1.FcmError"
_BAD_REQUEST = "type.googleapis.com/google.rpc.BadRequest"
_TARGETS = ("token", "fid", "topic", "condition")
_FIELDS: dict[str, frozenset[str]] = {
    "": frozenset({"message", "validate_only", "validateOnly"}),
    "message": frozenset(
        {"name", "data", "notification", "android", "webpush", "apns", "fcm_options", "fcmOptions", *_TARGETS}
    ),
    "message.notification": frozenset({"title", "body", "image"}),
}
_STATUS: dict[int, str] = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
}
_ERRORS: dict[str, tuple[int, str]] = {
    "INVALID_ARGUMENT": (400, "The registration token is not a valid FCM registration token"),
    "INVALID_ARGUMENT payload": (400, "Invalid value at 'message.data[0].value' (TYPE_STRING), 12"),
    "UNREGISTERED": (404, "Requested entity was not found."),
    "SENDER_ID_MISMATCH": (403, "SenderId mismatch"),
    "QUOTA_EXCEEDED": (429, "Quota exceeded for quota metric 'Messages sent' and limit 'Messages per minute'."),
    "UNAVAILABLE": (503, "The service is currently unavailable."),
    "INTERNAL": (500, "Internal error encountered."),
    "THIRD_PARTY_AUTH_ERROR": (401, "Auth error from APNS or Web Push Service"),
    "UNAUTHENTICATED": (401, "Request had invalid authentication credentials."),
    "PERMISSION_DENIED": (403, "Permission 'cloudmessaging.messages.create' denied on resource"),
    "NOT_FOUND": (404, "Requested entity was not found."),
    "RESOURCE_EXHAUSTED": (429, "Resource has been exhausted (e.g. check quota)."),
}
_WITHOUT_DETAILS = frozenset({"UNAUTHENTICATED", "PERMISSION_DENIED", "NOT_FOUND", "RESOURCE_EXHAUSTED"})
"""Codes of all Google APIs: they come as the `status` alone, without an FCM error in the details."""


_CODE_OF_STATUS = {429: "QUOTA_EXCEEDED", 500: "INTERNAL", 503: "UNAVAILABLE", 404: "UNREGISTERED"}


class Oauth:
    """The authorization server: it gives access tokens for signed assertions."""

    def __init__(self, credentials: Credentials, faults: Faults) -> None:
        key = load_pem_private_key(credentials.fcm_private_key.encode(), password=None)
        if not isinstance(key, rsa.RSAPrivateKey):
            raise TypeError("the service account's key of the sandbox is not an RSA key")
        self._public_key = key.public_key()
        self._email = credentials.fcm_client_email
        self._secret = bytes.fromhex(credentials.token_secret)
        self._faults = faults
        self._known: dict[bytes, float] = {}

    def grant(self, request: Request) -> tuple[Answer, Fault | None]:
        """Answer `POST /token`."""
        fault = self._faults.on_request(Vendor.OAUTH)
        if fault is not None and fault.kind is Kind.STATUS:
            status = fault.status or 503
            body = {"error": "temporarily_unavailable", "error_description": "The service is unavailable."}
            return json_answer(status, body, retry_after(fault.retry_after)), None
        fields = dict(parse_qsl(request.body.decode("latin-1")))
        if fields.get("grant_type") != _GRANT:
            return _oauth_error("unsupported_grant_type", f"Invalid grant_type: {fields.get('grant_type', '')}"), fault
        problem = self._problem(fields.get("assertion", ""))
        if problem is not None:
            return problem, fault
        token = self._token(int(time.time()) + _LIFETIME_S)
        return json_answer(200, {"access_token": token, "expires_in": _LIFETIME_S, "token_type": "Bearer"}), fault

    def valid(self, authorization: bytes) -> bool:
        """Whether the Authorization header has a token of this server that has not expired."""
        now = time.time()
        until = self._known.get(authorization)
        if until is not None and until > now:
            return True
        scheme, _, token = authorization.partition(b" ")
        parts = token.decode("latin-1").split(".")
        if scheme.lower() != b"bearer" or len(parts) != 3 or not parts[1].isdigit():
            return False
        expires = int(parts[1])
        if expires <= now or not hmac.compare_digest(self._token(expires), token.decode("latin-1")):
            return False
        self._known = {known: end for known, end in self._known.items() if end > now} | {authorization: expires}
        return True

    def _token(self, expires: int) -> str:
        """A token that holds until `expires` (seconds since the epoch), also after a restart, like a real one."""
        signature = hmac.new(self._secret, str(expires).encode(), hashlib.sha256).hexdigest()
        return f"ya29.{expires}.{signature}"

    def _problem(self, assertion: str) -> Answer | None:
        try:
            claims = jwt.decode(
                assertion,
                self._public_key,
                algorithms=["RS256"],
                options={"verify_aud": False, "require": ["iss", "aud", "exp", "iat"]},
                leeway=10,
            )
        except jwt.InvalidSignatureError:
            return _oauth_error("invalid_grant", "Invalid JWT Signature.")
        except jwt.ExpiredSignatureError:
            return _oauth_error("invalid_grant", "Invalid JWT: Token must be a short-lived token and in a time frame.")
        except jwt.InvalidTokenError as error:
            return _oauth_error("invalid_grant", f"Invalid JWT: {error}")
        if claims["iss"] != self._email:
            return _oauth_error("invalid_grant", "Invalid grant: account not found")
        audience = claims["aud"]
        if not isinstance(audience, str) or urlsplit(audience).path != TOKEN_PATH:
            return _oauth_error("invalid_grant", "Invalid JWT: Failed audience check.")
        if not _SCOPES & set(str(claims.get("scope", "")).split()):
            return _oauth_error("invalid_scope", "Invalid OAuth scope or ID token audience provided.")
        return None


class Fcm:
    """The imaginary project. Like FCM itself it sends no receipts."""

    def __init__(self, credentials: Credentials, oauth: Oauth, log: ArrivalLog, faults: Faults) -> None:
        self._project = credentials.fcm_project_id
        self._oauth = oauth
        self._log = log
        self._faults = faults
        self.send_path = f"/v1/projects/{self._project}/messages:send"

    def send(self, request: Request) -> tuple[Answer, Fault | None]:
        """Answer `POST /v1/projects/{project}/messages:send`."""
        if not self._oauth.valid(request.header(b"authorization")):
            return _unauthenticated(), None
        if request.path != self.send_path:
            return error_answer(403, "Permission 'cloudmessaging.messages.create' denied on resource"), None
        try:
            body = msgspec.json.decode(request.body)
        except UNREADABLE:
            return error_answer(400, "Invalid JSON payload received. Unexpected token."), None
        problem = _problem(body)
        if problem is not None:
            return problem, None
        if body.get("validate_only") or body.get("validateOnly"):
            return json_answer(200, {"name": f"projects/{self._project}/messages/fake_message_id"}), None
        return self._take(request, body["message"])

    def _take(self, request: Request, content: dict[str, Any]) -> tuple[Answer, Fault | None]:
        to = next(content[target] for target in _TARGETS if content.get(target))
        fault = self._faults.on_request(Vendor.FCM, (to,))
        arrival = self._arrival(request, content, to)
        refusal = self._refusal(fault, to)
        if refusal is not None:
            code, answer = refusal
            arrival.status, arrival.error, arrival.reference = REFUSED, code, ""
            self._log.add((arrival,))
            return answer, None
        if fault is None or fault.takes:
            self._log.add((arrival,))
        return json_answer(200, {"name": arrival.reference}), fault

    def _refusal(self, fault: Fault | None, to: str) -> tuple[str, Answer] | None:
        if fault is not None and fault.kind is Kind.STATUS:
            code = str(fault.code or _CODE_OF_STATUS.get(fault.status or 503, ""))
            status = fault.status or _ERRORS.get(code, (503, ""))[0]
            return code or str(status), _error(code, status, retry_after(fault.retry_after))
        later = self._faults.later(Vendor.FCM, to)
        word = "unregistered" if later is not None else token_word(to)
        if not word:
            return None
        code = PUSH_REFUSALS[word][1]
        status = _ERRORS[code][0]
        return code, _error(code, status, retry_after(1) if status in (429, 503) else ())

    def _arrival(self, request: Request, content: dict[str, Any], to: str) -> Arrival:
        shown = content.get("notification") or {}
        data = content.get("data") or {}
        link = (((content.get("webpush") or {}).get("fcm_options") or {}).get("link")) or data.get("link") or ""
        reference = f"0:{time.time_ns() // 1000}%{secrets.token_hex(8)}"
        return Arrival(
            seq=0,
            at=0,
            channel="push",
            vendor="fcm",
            to=to,
            sender=self._project,
            body=Parts(title=str(shown.get("title", "")), text=str(shown.get("body", "")), link=str(link)),
            reference=f"projects/{self._project}/messages/{reference}",
            key=request.header(b"idempotency-key").decode("latin-1"),
            tags=tags_of(data),
            bytes=len(request.body),
            ttl_s=_ttl(content),
            urgency=str((content.get("android") or {}).get("priority", "")).lower(),
        )


def error_answer(
    status: int, text: str, code: str = "", violation: tuple[str, str] | None = None, headers: Headers = ()
) -> Answer:
    """An error in the words of Google's APIs; `code` is FCM's own, `violation` a field and what is wrong with it."""
    details: list[dict[str, Any]] = []
    if violation is not None:
        field, description = violation
        details.append({"@type": _BAD_REQUEST, "fieldViolations": [{"field": field, "description": description}]})
    if code:
        details.append({"@type": _FCM_ERROR, "errorCode": code})
    error: dict[str, Any] = {"code": status, "message": text, "status": _STATUS.get(status, "UNKNOWN")}
    if details:
        error["details"] = details
    return json_answer(status, {"error": error}, headers)


def _error(code: str, status: int, headers: Headers) -> Answer:
    """The error answer for a code; `INVALID_ARGUMENT payload` names the field, as FCM does for most fields."""
    text = _ERRORS.get(code, (status, "The request could not be served."))[1]
    if code.endswith(" payload"):
        return error_answer(status, text, violation=("message.data[0].value", text), headers=headers)
    return error_answer(status, text, "" if code in _WITHOUT_DETAILS else code, headers=headers)


def _unauthenticated() -> Answer:
    return error_answer(
        401,
        "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or other valid "
        "authentication credential. See https://developers.google.com/identity/sign-in/web/devconsole-project.",
    )


def _oauth_error(error: str, description: str) -> Answer:
    return Answer(400, msgspec.json.encode({"error": error, "error_description": description}), JSON)


def _problem(body: object) -> Answer | None:
    """The error in a decoded body, in FCM's words; None when it is valid."""
    if not isinstance(body, dict):
        return error_answer(400, "Invalid JSON payload received. Unknown name: Root element must be an object.")
    content = body.get("message")
    for path, value in (("", body), ("message", content)):
        if value is None:
            continue
        if not isinstance(value, dict):
            return _invalid(path, f"Invalid value at '{path}' (type.googleapis.com/google.firebase.fcm.v1.Message)")
        if problem := _unknown(path, value):
            return problem
    if not content:
        return _invalid("message", "The message is not set.", code="INVALID_ARGUMENT")
    targets = [target for target in _TARGETS if content.get(target)]
    if len(targets) != 1:
        text = "Recipient of the message is not set." if not targets else "Only one of the targets may be set."
        return _invalid("message", text, code="INVALID_ARGUMENT")
    if not isinstance(content[targets[0]], str):
        return _invalid(f"message.{targets[0]}", f"Invalid value at 'message.{targets[0]}' (TYPE_STRING)")
    return _payload_problem(content)


def _payload_problem(content: dict[str, Any]) -> Answer | None:
    shown = content.get("notification")
    if shown is not None:
        if not isinstance(shown, dict):
            path = "message.notification"
            return _invalid(
                path, f"Invalid value at '{path}' (type.googleapis.com/google.firebase.fcm.v1.Notification)"
            )
        if problem := _unknown("message.notification", shown):
            return problem
        for name, value in shown.items():
            if not isinstance(value, str):
                return _invalid(f"message.notification.{name}", f"Invalid value at 'message.notification.{name}'")
    data = content.get("data")
    if data is not None and not isinstance(data, dict):
        return _invalid("message.data", "Invalid value at 'message.data' (Map)")
    for position, (name, value) in enumerate((data or {}).items()):
        if not isinstance(value, str):
            path = f"message.data[{position}].value"
            return _invalid(path, f"Invalid value at '{path}' (TYPE_STRING), {msgspec.json.encode(value).decode()}")
        if name in ("from", "gcm", "message_type") or name.startswith(("google.", "gcm.")):
            return _invalid("message.data", f"Invalid data payload key: {name}", code="INVALID_ARGUMENT")
    for name in ("android", "webpush", "apns", "fcm_options"):
        if content.get(name) is not None and not isinstance(content[name], dict):
            return _invalid(f"message.{name}", f"Invalid value at 'message.{name}'")
    if problem := _platform_problem(content):
        return problem
    if len(msgspec.json.encode({"notification": shown, "data": data})) > MAX_PAYLOAD:
        return error_answer(400, "Request contains an invalid argument.", "INVALID_ARGUMENT")
    return None


def _platform_problem(content: dict[str, Any]) -> Answer | None:
    """The error in the lifetime or urgency: in `android`, or in the headers of `apns` and `webpush`; None without."""
    android = content.get("android") or {}
    ttl, priority = android.get("ttl"), android.get("priority")
    if ttl is not None and not (isinstance(ttl, str) and _DURATION.fullmatch(ttl)):
        return _invalid("message.android.ttl", "Invalid value at 'message.android.ttl' (google.protobuf.Duration)")
    if ttl is not None and float(ttl[:-1]) > _LONGEST_KEPT_S:
        text = f"Invalid TTL duration: {ttl}. It must be between 0 and {_LONGEST_KEPT_S} seconds."
        return _invalid("message.android.ttl", text, code="INVALID_ARGUMENT")
    if priority is not None and str(priority).lower() not in _PRIORITIES:
        return _invalid("message.android.priority", "Invalid value at 'message.android.priority' (TYPE_ENUM)")
    for name, header, fits in (
        ("apns", "apns-expiration", str.isdigit),
        ("apns", "apns-priority", {"1", "5", "10"}.__contains__),
        ("webpush", "TTL", str.isdigit),
    ):
        headers = (content.get(name) or {}).get("headers") or {}
        if not isinstance(headers, dict) or not all(isinstance(value, str) for value in headers.values()):
            return _invalid(f"message.{name}.headers", f"Invalid value at 'message.{name}.headers' (Map)")
        if header in headers and not fits(headers[header]):
            field = f"message.{name}.headers"
            return _invalid(field, f"Invalid value for header {header}: {headers[header]}", code="INVALID_ARGUMENT")
    return None


def _ttl(content: dict[str, Any]) -> int | None:
    ttl = (content.get("android") or {}).get("ttl")
    return None if ttl is None else int(float(ttl[:-1]))


def _unknown(path: str, value: dict[str, Any]) -> Answer | None:
    for name in value:
        if name not in _FIELDS[path]:
            where = f" at '{path}'" if path else ""
            text = f'Invalid JSON payload received. Unknown name "{name}"{where}: Cannot find field.'
            return _invalid(path, text)
    return None


def _invalid(field: str, text: str, code: str = "") -> Answer:
    return error_answer(400, text, code, violation=(field, text))
