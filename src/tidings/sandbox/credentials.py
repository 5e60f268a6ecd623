"""The credentials of the sandbox's imaginary accounts, made once and kept in a private file.

They have the vendors' own forms, so vendors' SDKs and providers' checks accept them.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import os
import secrets
from collections.abc import Collection
from pathlib import Path
from typing import Any

import msgspec
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from msgspec import Struct

from tidings.model.errors import SettingsError
from tidings.policy.hosts import is_loopback

FILE = "credentials.json"
_PRIVATE = 0o600


class Credentials(Struct, frozen=True):
    """The credentials that senders must show, and the keys with which the sandbox signs.

    `event_private_key` is PKCS #8 PEM (P-256), and `event_public_key` its public half as SendGrid shows it: base64 of
    the SubjectPublicKeyInfo, without PEM lines. `fcm_private_key` is PKCS #8 PEM (RSA). `token_secret` (hex) signs the
    access tokens of the OAuth endpoint.
    """

    twilio_account_sid: str
    twilio_auth_token: str
    twilio_from_number: str
    sendgrid_api_key: str
    event_private_key: str
    event_public_key: str
    fcm_project_id: str
    fcm_client_email: str
    fcm_private_key_id: str
    fcm_private_key: str
    token_secret: str
    smtp_username: str
    smtp_password: str


def load_or_create(folder: Path) -> Credentials:
    """The credentials in `folder`, made on first use. Processes that start at the same time get the same ones.

    Raises:
        SettingsError: the folder cannot be written, or the file in it is damaged.
    """
    path = folder / FILE
    try:
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            _write_once(path, msgspec.json.format(msgspec.json.encode(_generate())))
        return msgspec.json.decode(path.read_bytes(), type=Credentials)
    except OSError as error:
        raise SettingsError(f"the sandbox cannot keep its credentials in {path}: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is damaged ({error}): delete it, and the sandbox makes a new one") from error


def token_of(credentials: Credentials) -> str:
    """The viewer's token, derived from the credentials."""
    return hmac.new(bytes.fromhex(credentials.token_secret), b"viewer", hashlib.sha256).hexdigest()[:40]


def is_guarded(host: str, allowed_hosts: Collection[str]) -> bool:
    """Whether a sandbox that listens on `host` and has the names `allowed_hosts` asks for a token."""
    return bool(allowed_hosts) or not is_loopback(host)


def provider_settings(
    credentials: Credentials, http_url: str, smtp_host: str, smtp_port: int
) -> dict[str, dict[str, Any]]:
    """The `providers.*` sections of the settings for sending to a sandbox at `http_url` and `smtp_host:smtp_port`."""
    url = http_url.rstrip("/")
    return {
        "sendgrid": {
            "api_key": credentials.sendgrid_api_key,
            "base_url": url,
            "from_address": "notifications@tidings.example",
            "from_name": "Tidings",
            "webhook_public_key": credentials.event_public_key,
            "allow_insecure": True,
        },
        "twilio": {
            "account_sid": credentials.twilio_account_sid,
            "auth_token": credentials.twilio_auth_token,
            "base_url": url,
            "from_number": credentials.twilio_from_number,
            "allow_insecure": True,
        },
        "fcm": {"service_account": service_account(credentials, url), "base_url": url, "allow_insecure": True},
        "smtp": {
            "host": smtp_host,
            "port": smtp_port,
            "from_address": "notifications@tidings.example",
            "from_name": "Tidings",
        },
        "inbox": {},
    }


def service_account(credentials: Credentials, http_url: str) -> dict[str, str]:
    """The contents of a service account's key file, as from Google's console, for the sandbox at `http_url`."""
    url = http_url.rstrip("/")
    return {
        "type": "service_account",
        "project_id": credentials.fcm_project_id,
        "private_key_id": credentials.fcm_private_key_id,
        "private_key": credentials.fcm_private_key,
        "client_email": credentials.fcm_client_email,
        "client_id": str(int(credentials.fcm_private_key_id[:16], 16)),
        "auth_uri": f"{url}/o/oauth2/auth",
        "token_uri": f"{url}/token",
        "universe_domain": "googleapis.com",
    }


def _generate() -> Credentials:
    event_key = ec.generate_private_key(ec.SECP256R1())
    project = f"tidings-sandbox-{secrets.token_hex(3)}"
    return Credentials(
        twilio_account_sid=f"AC{secrets.token_hex(16)}",
        twilio_auth_token=secrets.token_hex(16),
        twilio_from_number="+15005550006",
        sendgrid_api_key=f"SG.{secrets.token_urlsafe(16)}.{secrets.token_urlsafe(32)}",
        event_private_key=_pem(event_key),
        event_public_key=base64.b64encode(
            event_key.public_key().public_bytes(
                serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        ).decode(),
        fcm_project_id=project,
        fcm_client_email=f"firebase-adminsdk@{project}.iam.gserviceaccount.com",
        fcm_private_key_id=secrets.token_hex(20),
        fcm_private_key=_pem(rsa.generate_private_key(public_exponent=65537, key_size=2048)),
        token_secret=secrets.token_hex(32),
        smtp_username="tidings",
        smtp_password=secrets.token_urlsafe(18),
    )


def _pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def _write_once(path: Path, content: bytes) -> None:
    """Write `content` to `path`, complete and private, unless another process has written the file first."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _PRIVATE)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
    finally:
        draft.unlink()
