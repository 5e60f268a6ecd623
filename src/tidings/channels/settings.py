"""The settings that providers share, and the sentences that say what is wrong with a setting."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator
from pydantic_core import ErrorDetails

from tidings.channels.trust import certificates
from tidings.model.errors import SettingsError
from tidings.policy import hosts

_HOST = re.compile(r"[A-Za-z0-9._\-]+|\[[0-9A-Fa-f:.]+\]")
_MAILBOX = re.compile(r"[^\s@<>\"(),:;\[\]\\\x00-\x1f\x7f]+@[^\s@<>\"(),:;\[\]\\\x00-\x1f\x7f]+")
_CONTROLS = re.compile(r"[\x00-\x1f\x7f\u0085\u2028\u2029]")


def _http_url(value: str) -> str:
    try:
        parts = urlsplit(value)
        port_is_fine = parts.port is None or parts.port > 0
    except ValueError as error:
        raise ValueError(f"it is not a URL: {error}") from error
    if parts.scheme not in {"http", "https"} or not parts.hostname or not port_is_fine:
        raise ValueError("it must start with http:// or https:// and name a host")
    if not _HOST.fullmatch(parts.netloc.rpartition(":")[0] if parts.port else parts.netloc):
        raise ValueError("its host must be a plain host name or address, without a user or password")
    if parts.query or parts.fragment or not parts.path.isascii() or _CONTROLS.search(value) or " " in value:
        raise ValueError("it must end with the path, without a query, a fragment or spaces")
    return value.rstrip("/")


def _visible(value: SecretStr) -> SecretStr:
    text = value.get_secret_value()
    if not text or not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError("it must be visible ASCII characters without spaces; copy it again, without line ends")
    return value


def _mailbox(value: str) -> str:
    if not value.isascii() or not _MAILBOX.fullmatch(value):
        raise ValueError("it must be one plain email address such as hello@shop.example")
    return value


def _one_line(value: str) -> str:
    if _CONTROLS.search(value):
        raise ValueError("it must be one line without control characters")
    return value


def _ca_file(value: Path) -> Path:
    certificates(value)
    return value


CaFile = Annotated[Path, AfterValidator(_ca_file)]
"""A PEM file with at least one certificate."""

HttpUrl = Annotated[str, AfterValidator(_http_url)]
"""An absolute http(s) URL, kept without its trailing slash."""

Token = Annotated[SecretStr, AfterValidator(_visible)]
"""A secret that an HTTP header can carry."""

Mailbox = Annotated[str, AfterValidator(_mailbox)]
"""The sender's email address."""

OneLine = Annotated[str, AfterValidator(_one_line)]
"""One line of text, which a header can carry."""


class ProviderConfig(BaseModel):
    """The settings of one provider: the section `providers.<name>`."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    kind: str | None = Field(
        default=None, description="which provider this is; unset: the section's name. For a second account of a vendor"
    )


class NetworkProviderConfig(ProviderConfig):
    """The settings of every provider that runs outside Tidings."""

    rate: float | None = Field(
        default=None,
        gt=0,
        le=1_000_000,
        description="sends per second that the vendor grants this account, such as 100; unset: no limit",
    )
    ca_file: CaFile | None = Field(
        default=None,
        description="a PEM file of certificates that are trusted beside the system's, for a server or a proxy with a "
        "certificate of your own authority",
    )
    allow_insecure: bool = Field(
        default=False,
        description="whether secrets may go over a connection to another machine that is not encrypted, or whose other "
        "end proves nothing; true only on a network that nobody else can read",
    )


class HttpProviderConfig(NetworkProviderConfig):
    """The settings of every provider that is called over HTTP."""

    connect_timeout: float = Field(
        default=3.0, gt=0, le=60, description="seconds in which a connection must be there; nothing was sent if not"
    )
    timeout: float = Field(
        default=10.0, gt=0, le=300, description="seconds for one request, connection and answer included"
    )
    concurrency: int = Field(default=256, ge=1, le=10_000, description="requests under way at once, at most")

    @model_validator(mode="after")
    def _connecting_ends_first(self) -> HttpProviderConfig:
        # Otherwise a timeout would not tell whether the request can have gone out.
        if self.connect_timeout >= self.timeout:
            raise ValueError("connect_timeout must be smaller than timeout")
        return self

    @model_validator(mode="after")
    def _secrets_stay_secret(self) -> HttpProviderConfig:
        for name, url in self.urls():
            self.refuse_to_expose(name, url)
        return self

    def refuse_to_expose(self, name: str, url: str) -> None:
        """Raise ValueError if calling `url`, the value of the setting `name`, would send secrets unencrypted."""
        if not (self.allow_insecure or url.startswith("https://") or is_loopback(url)):
            raise ValueError(
                f"{name} = {url} would send the account's secrets readable over the network; write https://, or set "
                "allow_insecure = true on a network that nobody else can read"
            )

    def urls(self) -> Iterator[tuple[str, str]]:
        """The URLs to which secrets are sent, each after the name of its setting."""
        if (url := getattr(self, "base_url", None)) is not None:
            yield "base_url", url


C = TypeVar("C", bound=ProviderConfig)


def read(name: str, config: type[C], settings: Mapping[str, Any]) -> C:
    """The checked settings of provider `name`.

    Raises:
        SettingsError: names each wrong setting as `providers.<name>.<field>` and says what to write.
    """
    try:
        return config.model_validate(dict(settings))
    except ValidationError as error:
        sentences = [_sentence(name, config, problem) for problem in error.errors(include_url=False)]
        raise SettingsError("\n".join(sentences)) from None


def _sentence(name: str, config: type[ProviderConfig], problem: ErrorDetails) -> str:
    path = [str(part) for part in problem["loc"]]
    where = ".".join(["providers", name, *path])
    if problem["type"] == "extra_forbidden":
        return f"{where} is not a setting of {name}; it has {', '.join(config.model_fields)}."
    field = config.model_fields.get(path[0]) if path else None
    meaning = f" It is {field.description}." if field is not None and field.description and len(path) == 1 else ""
    if problem["type"] == "missing":
        return f"{where} is missing.{meaning}"
    fault = problem["msg"].removeprefix("Value error, ")
    return f"{where} cannot be used: {fault[:1].lower()}{fault[1:]}.{meaning}"


def is_private(url: str) -> bool:
    """Whether only this machine or its network can reach the URL's host."""
    host = urlsplit(url).hostname or ""
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        return host == "localhost" or host.endswith((".localhost", ".local", ".internal")) or "." not in host


def is_loopback(url: str) -> bool:
    """Whether the URL's host is this machine."""
    return hosts.is_loopback(urlsplit(url).hostname or "")
