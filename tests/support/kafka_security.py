"""A Kafka broker with TLS and logins, its certificates, and an OpenID provider for it."""

from __future__ import annotations

import base64
import datetime as dt
import ipaddress
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from support.kafka import KafkaBroker
from support.parts import require

USER, PASSWORD = "tidings", "planted-broker-password"
"""The users who may log in by PLAIN and SCRAM."""
GUEST = "guest"
"""The user who may log in and nothing else."""
CLIENT, CLIENT_SECRET = "tidings-client", "planted-client-secret"
KEY_PASSWORD = "planted-key-password"


class Authority:
    """Signs certificates; files are PEM in `folder`."""

    def __init__(self, folder: Path, name: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._builder(self._name, self._key.public_key()).add_extension(
            x509.BasicConstraints(ca=True, path_length=None), critical=True
        )
        self.file = folder / f"{name}.pem"
        self.file.write_bytes(_pem(certificate.sign(self._key, hashes.SHA256())))

    def issue(self, name: str, host: str | None = "127.0.0.1", password: str = "") -> tuple[Path, Path]:
        """The files of a new certificate for `name` and the address `host`, and of its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = self._builder(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), key.public_key())
        if host is not None:
            names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(host))])
            builder = builder.add_extension(names, critical=False)
        certificate_file, key_file = self._folder / f"{name}.pem", self._folder / f"{name}.key"
        certificate_file.write_bytes(_pem(builder.sign(self._key, hashes.SHA256())))
        secrecy: serialization.KeySerializationEncryption = serialization.NoEncryption()
        if password:
            secrecy = serialization.BestAvailableEncryption(password.encode())
        encoded = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, secrecy)
        key_file.write_bytes(encoded)
        return certificate_file, key_file

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        now = dt.datetime.now(dt.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(now + dt.timedelta(days=2))
        )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


class OpenId:
    """An OpenID provider: tokens for one client's credentials, and the keys to verify them with."""

    def __init__(self) -> None:
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.granted = self.refused = 0
        self.lifetime_s = 3600
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer(200, provider.keys())

            def do_POST(self) -> None:
                form = parse_qs(self.rfile.read(int(self.headers["content-length"])).decode())
                answer = provider.token(self.headers.get("authorization", ""), form)
                self._answer(401 if answer is None else 200, answer or {"error": "invalid_client"})

            def _answer(self, status: int, body: object) -> None:
                encoded = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(encoded)))
                self.end_headers()
                self.wfile.write(encoded)

            def log_message(self, format: str, *args: object) -> None:
                """Log nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, name="openid")
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def keys(self) -> dict[str, object]:
        """The JSON Web Key Set."""
        key = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(self._key.public_key()))
        return {"keys": [{**key, "kid": "one", "use": "sig", "alg": "RS256"}]}

    def token(self, authorization: str, form: dict[str, list[str]]) -> dict[str, object] | None:
        """A token by the client credentials grant."""
        wanted = base64.b64encode(f"{CLIENT}:{CLIENT_SECRET}".encode()).decode()
        if authorization != f"Basic {wanted}" or form.get("grant_type") != ["client_credentials"]:
            self.refused += 1
            return None
        self.granted += 1
        now = int(time.time())
        claims = {"sub": USER, "iss": self.url, "aud": "kafka", "iat": now, "exp": now + self.lifetime_s}
        token = jwt.encode(claims, self._key, algorithm="RS256", headers={"kid": "one"})
        return {"access_token": token, "token_type": "Bearer", "expires_in": self.lifetime_s}

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@dataclass
class Secured:
    """The broker, with the files that a client needs. Listeners: SSL, MTLS (wants a certificate), SASL_SSL."""

    broker: KafkaBroker
    authority: Authority
    openid: OpenId

    def at(self, listener: str) -> str:
        """The bootstrap string of a listener."""
        return f"127.0.0.1:{self.broker.ports[listener]}"


@pytest.fixture(scope="session")
def secured_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    """One secured broker for the whole run."""
    require("kafka")
    folder = tmp_path_factory.mktemp("kafka-secured")
    authority, openid = Authority(folder / "certificates", "authority"), OpenId()
    certificate, key = authority.issue("broker")
    store = folder / "broker-store.pem"
    store.write_bytes(key.read_bytes() + certificate.read_bytes())
    security = "org.apache.kafka.common.security"
    scram = "scram.ScramLoginModule"
    plain = f'username="x" password="x" user_{USER}="{PASSWORD}" user_{GUEST}="{PASSWORD}"'
    broker = KafkaBroker(
        folder / "broker",
        {
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(store),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(authority.file),
            "listener.name.mtls.ssl.client.auth": "required",
            "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER",
            "listener.name.sasl_ssl.plain.sasl.jaas.config": f"{security}.plain.PlainLoginModule required {plain};",
            **{
                f"listener.name.sasl_ssl.scram-sha-{bits}.sasl.jaas.config": f"{security}.{scram} required;"
                for bits in (256, 512)
            },
            "listener.name.sasl_ssl.oauthbearer.sasl.jaas.config": (
                f"{security}.oauthbearer.OAuthBearerLoginModule required;"
            ),
            "listener.name.sasl_ssl.oauthbearer.sasl.server.callback.handler.class": (
                f"{security}.oauthbearer.OAuthBearerValidatorCallbackHandler"
            ),
            "sasl.oauthbearer.jwks.endpoint.url": f"{openid.url}/keys",
            "sasl.oauthbearer.expected.audience": "kafka",
            "sasl.oauthbearer.expected.issuer": openid.url,
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": f"User:ANONYMOUS;User:{USER};User:CN=client",
        },
        listeners={"SSL": "SSL", "MTLS": "SSL", "SASL_SSL": "SASL_SSL"},
        scram=[f"{kind}=[name={USER},password={PASSWORD}]" for kind in ("SCRAM-SHA-256", "SCRAM-SHA-512")],
        java=[f"-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls={openid.url}/keys"],
    )
    broker.start()
    yield Secured(broker, authority, openid)
    broker.kill()
    openid.close()
