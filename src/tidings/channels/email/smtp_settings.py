"""The settings of an SMTP server, checked so that its password is never sent readable."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, SecretStr, model_validator

from tidings.channels.settings import Mailbox, NetworkProviderConfig, OneLine, is_loopback

PORTS = {"tls": 465, "starttls": 587, "none": 25}


class SmtpConfig(NetworkProviderConfig):
    """The settings in `providers.smtp`."""

    host: str = Field(pattern=r"^[A-Za-z0-9._:-]+$", description="the mail server")
    port: int | None = Field(default=None, ge=1, le=65535, description="its port: 465, 587 or 25, as security demands")
    security: Literal["tls", "starttls", "none"] | None = Field(
        default=None,
        description="tls (from the first byte), starttls or none; unset: tls on port 465, none for a server on this "
        "machine, else starttls",
    )
    validate_certificates: bool = Field(
        default=True,
        description="whether the server must prove its name; false only for a server without a login: for one with a "
        "certificate of your own, name its authority in ca_file",
    )
    username: str | None = Field(default=None, description="the name to log in with, if the server wants one")
    password: SecretStr | None = Field(default=None, description="the password that belongs to username")
    from_address: Mailbox = Field(description="the sender's address; bounces come back to it")
    from_name: OneLine | None = Field(default=None, description="the sender's name, as people see it")
    helo_name: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9.:\[\]-]+$",
        description="the name to greet with; unset: this machine's full name, or its address if it has none",
    )
    connections: int = Field(default=10, ge=1, le=1000, description="connections at once, at most")
    timeout: float = Field(default=10.0, gt=0, le=300, description="seconds to wait for the server at each step")

    @model_validator(mode="after")
    def _login_is_whole_and_safe(self) -> SmtpConfig:
        if (self.username is None) != (self.password is None):
            raise ValueError("username and password go together; set both or none")
        if self.username is None or self.is_here or self.allow_insecure:
            return self
        if self.transport == "none":
            raise ValueError("security = none would send the password readable over the network; use starttls or tls")
        if not self.validate_certificates:
            raise ValueError(
                "validate_certificates = false would send the password to whoever answers; name the authority of the "
                "server's certificate in ca_file, or set allow_insecure = true on a network that nobody else can read"
            )
        return self

    @property
    def is_here(self) -> bool:
        """Whether the server is on this machine."""
        return is_loopback(f"smtp://[{self.host}]" if ":" in self.host else f"smtp://{self.host}")

    @property
    def transport(self) -> Literal["tls", "starttls", "none"]:
        """The setting `security`, or its default for this host and port."""
        if self.security is not None:
            return self.security
        if self.port == PORTS["tls"]:
            return "tls"
        return "none" if self.is_here else "starttls"

    @property
    def to_port(self) -> int:
        """The setting `port`, or the usual port of the transport."""
        return self.port or PORTS[self.transport]
