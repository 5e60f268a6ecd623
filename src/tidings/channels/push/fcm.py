"""Sends push notifications through Firebase Cloud Messaging's HTTP v1 API, one request for each device, over HTTP/2.

Facts, and Google's page for each:

- The request: https://firebase.google.com/docs/reference/fcm/rest/v1/projects.messages/send; what it carries:
  `fcm_message.py`.
- `error.details[].errorCode` and what each means: https://firebase.google.com/docs/reference/fcm/rest/v1/ErrorCode and
  https://firebase.google.com/docs/cloud-messaging/error-codes. INVALID_ARGUMENT may mean a bad token or a bad payload;
  the named field, or the sentence about the registration token, tells which.
- Tokens are dead after UNREGISTERED, and after an INVALID_ARGUMENT about the token:
  https://firebase.google.com/docs/cloud-messaging/manage-tokens. Not after SENDER_ID_MISMATCH: with the key of another
  project, set by mistake, every token would be lost.
- Without `Retry-After`, wait 60 seconds after 429: https://firebase.google.com/docs/cloud-messaging/scale-fcm.
- The access token, from a JWT that the service account signs:
  https://developers.google.com/identity/protocols/oauth2/service-account#authorizingrequests.

FCM sends no receipts and has no idempotency key.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote, urlencode

import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from msgspec import Struct
from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from tidings.channels.errors import ACCOUNT_WAIT_S, follow
from tidings.channels.http import Answer, HttpClient, brief, by_status, retry_after_s
from tidings.channels.parallel import NOT_BEGUN, in_parallel
from tidings.channels.push.fcm_message import encoded
from tidings.channels.settings import HttpProviderConfig, HttpUrl
from tidings.channels.tools import Tools
from tidings.model.errors import SettingsError
from tidings.model.sending import About, PushDelivery, Rejected, Retry, SendResult, Sent, Uncertain
from tidings.ports.clock import Clock
from tidings.ports.provider import PushProvider

_SCOPE = "https://www.googleapis.com/auth/firebase.messaging"
_GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
_ASSERTION_S = 3600
"""How long a signed assertion is valid."""
_CLOCK_AHEAD_S = 10
"""How far this machine's clock may be ahead of Google's, which refuses assertions issued in the future."""
_RENEW_BEFORE_MS = 300_000
_WAIT_AFTER_429_S = 60.0


class ServiceAccount(BaseModel):
    """The fields of a service account's JSON file that Tidings needs."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    project_id: str = Field(min_length=1, description="the Firebase project")
    private_key_id: str | None = Field(default=None, description="the id of the private key")
    private_key: SecretStr = Field(description="the private key, PEM")
    client_email: str = Field(min_length=3, description="the service account's name")
    token_uri: HttpUrl = Field(
        default="https://oauth2.googleapis.com/token", description="where access tokens come from"
    )

    @field_validator("private_key")
    @classmethod
    def _is_rsa(cls, value: SecretStr) -> SecretStr:
        _load_key(value)
        return value


class FcmConfig(HttpProviderConfig):
    """The settings in `providers.fcm`."""

    service_account_file: Path | None = Field(
        default=None, description="the service account's JSON file, from the Firebase console (Service accounts)"
    )
    service_account: ServiceAccount | None = Field(
        default=None, description="the contents of that file instead, as a table or as JSON text"
    )
    base_url: HttpUrl = Field(
        default="https://fcm.googleapis.com", description="the API's address; change it for tests"
    )
    http2_prior_knowledge: bool = Field(
        default=False, description="speak HTTP/2 from the first byte, for a stand-in without TLS"
    )

    @field_validator("service_account", mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return msgspec.json.decode(value)
        except msgspec.MsgspecError as error:
            raise ValueError(f"it is text, but not JSON: {error}") from error

    @model_validator(mode="after")
    def _one_account(self) -> FcmConfig:
        if (self.service_account_file is None) == (self.service_account is None):
            raise ValueError("exactly one of service_account_file and service_account must be set")
        return self

    def urls(self) -> Iterator[tuple[str, str]]:
        """The URLs to which secrets are sent, each after the name of its setting."""
        yield "base_url", self.base_url
        if self.service_account is not None:
            yield "service_account.token_uri", self.service_account.token_uri


class _Taken(Struct):
    name: str


class _Violation(Struct):
    field: str = ""


class _Detail(Struct):
    errorCode: str = ""  # noqa: N815 - the vendor's field
    fieldViolations: list[_Violation] = []  # noqa: N815 - the vendor's field


class _Error(Struct):
    status: str = ""
    message: str = ""
    details: list[_Detail] = []


class _Refusal(Struct):
    error: _Error


class _Token(Struct):
    access_token: str
    expires_in: float = 3600


_taken = msgspec.json.Decoder(_Taken)
_refusal = msgspec.json.Decoder(_Refusal)
_token = msgspec.json.Decoder(_Token)


class Fcm(PushProvider):
    """Sends through Firebase Cloud Messaging."""

    kind = "fcm"
    Config: ClassVar[type[FcmConfig]] = FcmConfig
    ERRORS_PAGE = "https://firebase.google.com/docs/cloud-messaging/error-codes"
    ERRORS: ClassVar = {
        "INVALID_ARGUMENT": Rejected("invalid_payload", detail="the message is malformed or too large"),
        "INVALID_ARGUMENT token": Rejected("invalid_token", suppress=True, detail="not a registration token"),
        "UNREGISTERED": Rejected("unregistered", suppress=True, detail="the app is gone or the token has expired"),
        "SENDER_ID_MISMATCH": Rejected(
            "sender_id_mismatch", fallback=True, detail="the token belongs to another project"
        ),
        "QUOTA_EXCEEDED": Retry("throttled", _WAIT_AFTER_429_S, "too many messages for the project or the device"),
        "UNAVAILABLE": Retry("unavailable", None, "the service is overloaded"),
        "INTERNAL": Retry("provider_error", None, "an error within the service"),
        "THIRD_PARTY_AUTH_ERROR": Retry(
            "third_party_auth", ACCOUNT_WAIT_S, "the project's key for Apple's or the browser's push service is bad"
        ),
        "UNAUTHENTICATED": Retry(
            "unauthorized", None, "the access token is refused; a new one is fetched", About.UNOFFERED
        ),
        "RESOURCE_EXHAUSTED": Retry("throttled", _WAIT_AFTER_429_S, "too many requests for the project", About.ACCOUNT),
        "PERMISSION_DENIED": Retry(
            "forbidden", ACCOUNT_WAIT_S, "the service account may not send for the project", About.UNOFFERED
        ),
        "NOT_FOUND": Retry("no_such_project", ACCOUNT_WAIT_S, "there is no such project", About.UNOFFERED),
    }

    def __init__(self, config: FcmConfig, tools: Tools) -> None:
        """A provider that sends with `config`. Raises SettingsError when the service account cannot be read."""
        self.name, self.rate = tools.name, config.rate
        self.batch_size = min(64, config.concurrency)
        self.parallel = self.batch_size
        self.concurrency = config.concurrency // self.batch_size
        self.timeout_s = 3 * config.timeout
        self._request_timeout_s = config.timeout
        self._config = config
        self._clock = tools.clock
        account = config.service_account or _from_file(
            config.service_account_file or Path(), f"{self.section}.service_account_file", config
        )
        self._http = HttpClient(
            config.base_url,
            config,
            {"content-type": "application/json"},
            http2=True,
            prior_knowledge=config.http2_prior_knowledge,
        )
        self._project = account.project_id
        self._path = f"/v1/projects/{quote(account.project_id, safe='')}/messages:send"
        self._access = _AccessToken(account, config, tools.clock)

    async def send(self, batch: Sequence[PushDelivery]) -> Sequence[SendResult]:
        """Send each delivery in a request of its own, up to `batch_size` of them at once."""
        access = await self._access.get()
        if isinstance(access, Retry):
            return [msgspec.structs.replace(access, about=About.UNOFFERED)] * len(batch)
        headers = {"authorization": f"Bearer {access}"}
        return await in_parallel(
            batch,
            lambda delivery: self._send(delivery, headers),
            NOT_BEGUN,
            limit=self.batch_size * self.concurrency,
            within_s=self._request_timeout_s,
        )

    async def _send(self, delivery: PushDelivery, headers: dict[str, str]) -> SendResult:
        try:
            body = encoded(delivery, self._clock.now())
        except UnicodeEncodeError:
            return Rejected("invalid_text", detail="the text or the token is not valid Unicode")
        reply = await self._http.post(self._path, body, headers)
        if not isinstance(reply, Answer):
            return reply
        if reply.status == 200:
            try:
                return Sent(_taken.decode(reply.body).name)
            except (msgspec.MsgspecError, UnicodeDecodeError):
                return Uncertain("unreadable_answer", "HTTP status 200, but not FCM's JSON")
        return self._refused(reply, headers["authorization"].removeprefix("Bearer "))

    def _refused(self, answer: Answer, access: str) -> SendResult:
        try:
            error = _refusal.decode(answer.body).error
        except (msgspec.MsgspecError, UnicodeDecodeError):
            error = _Error()
        code = next((detail.errorCode for detail in error.details if detail.errorCode), error.status)
        # FCM also answers 401 if the project's key for Apple's push service is bad: then the access token is good.
        if answer.status == 401 and code in {"UNAUTHENTICATED", ""}:
            self._access.forget(access)
        if not code:
            return by_status(answer, self._clock, error.message)
        said = brief(f"{code}: {error.message}")
        known = self.ERRORS.get(f"{code} token" if _is_about_the_token(code, error) else code)
        if known is None:
            return by_status(answer, self._clock, said)
        return follow(known, said, retry_after_s(answer, self._clock))

    async def check(self) -> str:
        """Fetch an access token. Raises SettingsError saying what is wrong with the service account."""
        self._access.forget()
        access = await self._access.get()
        if isinstance(access, Retry):
            raise SettingsError(
                f"Google gives no access token for the service account of project {self._project}: {access.detail}. "
                "Make a new private key in the Firebase console (Project settings, Service accounts) and set "
                f"{self.section}.service_account_file to its file."
            )
        return f"Google gave an access token for the Firebase project {self._project}."

    async def close(self) -> None:
        """Free the connections."""
        await self._access.close()
        await self._http.close()


class _AccessToken:
    """Provides the access token: fetches it when it is first needed, renews it before it ends, one fetch at a time."""

    def __init__(self, account: ServiceAccount, config: FcmConfig, clock: Clock) -> None:
        self._account = account
        self._key = _load_key(account.private_key)
        self._clock = clock
        self._fetching: asyncio.Task[str | Retry] | None = None
        self._value: str | None = None
        self._renew_at = 0
        self._http = HttpClient(
            account.token_uri, config, {"content-type": "application/x-www-form-urlencoded"}, http2=True
        )

    async def get(self) -> str | Retry:
        """The token; Retry when none can be had now. Then nothing was sent."""
        if self._value is not None and self._clock.now() < self._renew_at:
            return self._value
        if self._fetching is None or self._fetching.done():
            self._fetching = asyncio.get_running_loop().create_task(self._fetch())
        # Shielded: the first caller may be cancelled while others wait for the same fetch.
        return await asyncio.shield(self._fetching)

    def forget(self, value: str | None = None) -> None:
        """Drop the token if it is still `value`; without `value` drop it in any case."""
        if value is None or value == self._value:
            self._value = None

    async def close(self) -> None:
        """Cancel a fetch that is under way, and free the connections."""
        if self._fetching is not None:
            self._fetching.cancel()
        await self._http.close()

    async def _fetch(self) -> str | Retry:
        now = self._clock.now()
        body = urlencode({"grant_type": _GRANT, "assertion": self._assertion(now // 1000)}).encode()
        reply = await self._http.post("", body)
        if not isinstance(reply, Answer):
            return Retry("no_access_token", detail=reply.detail)
        if reply.status != 200:
            said = brief(reply.body.decode(errors="replace"))
            refused = reply.status in (400, 401, 403)
            asked_s = retry_after_s(reply, self._clock)
            return Retry(
                "unauthorized" if refused else "no_access_token",
                ACCOUNT_WAIT_S if refused and asked_s is None else asked_s,
                f"HTTP status {reply.status}: {said}",
            )
        try:
            token = _token.decode(reply.body)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return Retry("no_access_token", detail=f"what answers at {self._account.token_uri} gives no access token")
        if not token.access_token.isascii() or not token.access_token.isprintable():
            return Retry("no_access_token", detail="the access token has characters that no header can carry")
        lifetime_s = min(max(token.expires_in, 0), _ASSERTION_S)
        self._value = token.access_token
        self._renew_at = now + max(int(lifetime_s * 1000) - _RENEW_BEFORE_MS, int(lifetime_s * 500))
        return self._value

    def _assertion(self, now_s: int) -> str:
        claims = {
            "iss": self._account.client_email,
            "scope": _SCOPE,
            "aud": self._account.token_uri,
            "iat": now_s - _CLOCK_AHEAD_S,
            "exp": now_s - _CLOCK_AHEAD_S + _ASSERTION_S,
        }
        headers = {} if self._account.private_key_id is None else {"kid": self._account.private_key_id}
        return jwt.encode(claims, self._key, algorithm="RS256", headers=headers)


def _load_key(secret: SecretStr) -> RSAPrivateKey:
    try:
        key = load_pem_private_key(secret.get_secret_value().encode(), password=None)
    except (ValueError, TypeError) as error:
        raise ValueError("it is not a private key in PEM form; copy it with its line ends") from error
    if not isinstance(key, RSAPrivateKey):
        raise ValueError("it is not an RSA key")  # noqa: TRY004 - pydantic turns only a ValueError into a sentence
    return key


def _from_file(path: Path, where: str, config: FcmConfig) -> ServiceAccount:
    try:
        account = ServiceAccount.model_validate_json(path.read_bytes())
    except OSError as error:
        raise SettingsError(f"{where}: {path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise SettingsError(
            f"{where}: {path} is not the JSON file of a service account. Download it in the Firebase console (Project "
            "settings, Service accounts, Generate new private key)."
        ) from error
    try:
        config.refuse_to_expose("token_uri", account.token_uri)
    except ValueError as error:
        raise SettingsError(f"{where}: {path}: {error}.") from error
    return account


def _is_about_the_token(code: str, error: _Error) -> bool:
    if code != "INVALID_ARGUMENT":
        return False
    fields = [violation.field for detail in error.details for violation in detail.fieldViolations]
    if fields:
        return "message.token" in fields
    return "registration token" in error.message.lower()
