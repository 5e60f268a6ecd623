"""The HTTP client: Retry-After, bounds, HTTP/2, and the result of each way in which a call ends."""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import DataReceived, Event, RequestReceived, StreamEnded
from hypothesis import given
from hypothesis import strategies as st
from pyreqwest.exceptions import ConnectError
from pyreqwest.http import HeaderMap

from support.fcm import FcmVendor
from support.http_stand_in import HttpStandIn, Reply
from support.vendors import NOW, StillClock, tools_for
from tidings.channels.http import MOST_READ_BYTES, Answer, HttpClient, _unanswered, brief, by_status, retry_after_s
from tidings.channels.registry import build
from tidings.channels.settings import HttpProviderConfig
from tidings.model.sending import Rejected, Retry, Sent, Uncertain

CLOCK = StillClock()


def after(value: str) -> float | None:
    return retry_after_s(Answer(429, HeaderMap({"retry-after": value}), b""), CLOCK)


@pytest.mark.parametrize(("value", "seconds"), [("0", 0.0), ("120", 120.0), (" 7 ", 7.0), ("9" * 40, 1e18)])
def test_retry_after_in_seconds(value: str, seconds: float) -> None:
    assert after(value) == pytest.approx(seconds)


def test_of_several_retry_after_the_longest_counts() -> None:
    twice = HeaderMap([("retry-after", "5"), ("Retry-After", "soon"), ("retry-after", "60")])
    assert retry_after_s(Answer(429, twice, b""), CLOCK) == 60.0
    assert after("5, 60,7") == 60.0


def test_a_date_without_a_zone_is_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        moment = datetime.fromtimestamp(NOW / 1000 + 90, UTC)
        assert after(moment.strftime("%a, %d %b %Y %H:%M:%S -0000")) == pytest.approx(90, abs=1)
    finally:
        monkeypatch.undo()
        time.tzset()


def test_retry_after_as_a_date_is_never_in_the_past() -> None:
    moment = datetime.fromtimestamp(NOW / 1000, UTC)
    assert after(format_datetime(moment.replace(year=moment.year + 1), usegmt=True)) == pytest.approx(365 * 86400)
    assert after(format_datetime(moment.replace(year=2001), usegmt=True)) == 0.0
    assert after("Sunday, 06-Nov-94 08:49:37 GMT") == 0.0


@pytest.mark.parametrize("value", ["", "soon", "-5", "1.5e3", "٣", "Mon, 99 Foo 2026 25:61:00 GMT"])
def test_retry_after_that_cannot_be_read_counts_as_none(value: str) -> None:
    assert after(value) is None


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=40))
def test_no_retry_after_raises(value: str) -> None:
    seconds = after(value)
    assert seconds is None or seconds >= 0


@given(st.text())
def test_brief_is_one_short_line(text: str) -> None:
    line = brief(text)
    assert len(line) <= 300
    assert len(line.splitlines()) <= 1
    line.encode()


@given(st.integers(min_value=200, max_value=599))
def test_every_status_means_something(status: int) -> None:
    result = by_status(Answer(status, HeaderMap(), b""), CLOCK)
    assert not isinstance(result, Sent)
    unknown = status in (504, 520, 524)
    assert isinstance(result, Uncertain) == (status < 300 or unknown)
    assert isinstance(result, Retry) == (status in (401, 408, 429) or (status >= 500 and not unknown))


@pytest.mark.parametrize(
    ("cause", "expected", "reason"),
    [
        ("client error (Connect)", Retry, "unreachable"),
        ("error writing a body to connection", Retry, "connection_lost"),
        ("stream error received: refused stream before processing any application logic", Retry, "connection_lost"),
        ("connection error", Uncertain, "no_answer"),
        ("operation timed out", Uncertain, "no_answer"),
        ("stream error received: stream no longer needed", Uncertain, "no_answer"),
        ("connection closed before message completed", Uncertain, "no_answer"),
    ],
)
def test_the_clients_error_tells_whether_the_request_may_have_been_taken(
    cause: str, expected: type, reason: str
) -> None:
    messages = ["error sending request for url (http://127.0.0.1/)", cause, "Connection reset by peer (os error 104)"]
    result = _unanswered(ConnectError("failed", {"causes": [{"message": message} for message in messages]}))
    assert isinstance(result, expected)
    assert (result.reason, "Connection reset by peer" in result.detail) == (reason, True)


@asynccontextmanager
async def calling(said: Reply) -> AsyncIterator[tuple[HttpClient, HttpStandIn]]:
    server = HttpStandIn(lambda _: said)
    async with server.running():
        client = HttpClient(f"http://127.0.0.1:{server.port}", HttpProviderConfig(), {"x-ours": "yes"})
        try:
            yield client, server
        finally:
            await client.close()


async def test_headers_body_and_user_agent_are_sent() -> None:
    async with calling(Reply(200, b"fine")) as (client, server):
        answer = await client.post("/here", b"body", {"x-once": "1"})
        assert isinstance(answer, Answer)
        assert (answer.status, answer.body) == (200, b"fine")
        [came] = server.requests
        assert (came.method, came.path, came.body) == ("POST", "/here", b"body")
        assert (came.headers["x-ours"], came.headers["x-once"]) == ("yes", "1")
        assert came.headers["user-agent"].startswith("tidings/")
        assert "accept-encoding" not in came.headers


@pytest.mark.parametrize("size", [0, 1, 9_999, 10_000, MOST_READ_BYTES])
async def test_a_body_within_bounds_is_read_whole(size: int) -> None:
    async with calling(Reply(200, b"x" * size)) as (client, _):
        answer = await client.get("/")
        assert isinstance(answer, Answer)
        assert len(answer.body) == size


async def test_a_body_over_the_bound_is_not_kept() -> None:
    async with calling(Reply(200, b"x" * (MOST_READ_BYTES + 1))) as (client, _):
        answer = await client.get("/")
        assert isinstance(answer, Answer)
        assert answer.body == b""


async def test_redirects_are_not_followed() -> None:
    async with calling(Reply(307, b"", {"location": "http://127.0.0.1:1/"})) as (client, server):
        answer = await client.post("/", b"secret")
        assert isinstance(answer, Answer)
        assert isinstance(by_status(answer, CLOCK), Rejected)
        assert len(server.requests) == 1


async def test_no_proxy_is_used_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with calling(Reply(200, b"direct")) as (client, _):
        assert isinstance(await client.get("/"), Answer)


@asynccontextmanager
async def http2_server(streams: list[int], refusing: ErrorCodes | None = None) -> AsyncIterator[int]:
    """FCM's answer over HTTP/2 without TLS; `streams` collects the connection's number for each request.

    With `refusing`, every stream is reset with that error instead.
    """
    connections = 0
    serving: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        this = asyncio.current_task()
        assert this is not None
        serving.add(this)
        connections += 1
        number = connections
        http2 = H2Connection(H2Configuration(client_side=False))
        http2.initiate_connection()
        writer.write(http2.data_to_send())
        with suppress(ConnectionError, asyncio.CancelledError):
            while data := await reader.read(65536):
                for event in http2.receive_data(data):
                    answer(http2, event, number)
                writer.write(http2.data_to_send())
        writer.close()

    def answer(http2: H2Connection, event: Event, number: int) -> None:
        if isinstance(event, RequestReceived):
            streams.append(number)
        elif isinstance(event, DataReceived):
            assert event.stream_id is not None
            http2.acknowledge_received_data(event.flow_controlled_length or 0, event.stream_id)
        elif isinstance(event, StreamEnded):
            assert event.stream_id is not None
            if refusing is not None:
                http2.reset_stream(event.stream_id, refusing)
                return
            http2.send_headers(event.stream_id, [(":status", "200")])
            http2.send_data(event.stream_id, b'{"name": "projects/shop-1/messages/1"}', end_stream=True)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for one in serving:
            one.cancel()
        await asyncio.gather(*serving, return_exceptions=True)
        await server.wait_closed()


async def test_many_devices_share_one_http2_connection() -> None:
    vendor = FcmVendor()
    streams: list[int] = []
    async with vendor.running(), http2_server(streams) as port:
        section = vendor.settings(base_url=f"http://127.0.0.1:{port}", http2_prior_knowledge=True)
        provider = build("fcm", section, tools_for())
        results = await provider.send([vendor.delivery(number) for number in range(64)])
        assert all(isinstance(result, Sent) for result in results)
        results = await provider.send([vendor.delivery(number) for number in range(64)])
        assert all(isinstance(result, Sent) for result in results)
        await provider.close()
    assert len(streams) == 128
    assert len(set(streams)) == 1


@pytest.mark.parametrize(
    ("error", "expected"),
    [(ErrorCodes.REFUSED_STREAM, Retry), (ErrorCodes.CANCEL, Uncertain), (ErrorCodes.INTERNAL_ERROR, Uncertain)],
)
async def test_only_a_refused_stream_was_certainly_not_taken(error: ErrorCodes, expected: type) -> None:
    vendor = FcmVendor()
    async with vendor.running(), http2_server([], error) as port:
        section = vendor.settings(base_url=f"http://127.0.0.1:{port}", http2_prior_knowledge=True)
        provider = build("fcm", section, tools_for())
        [result] = await provider.send([vendor.delivery(1)])
        await provider.close()
    assert isinstance(result, expected), result


def certified(tmp_path: Path) -> tuple[ssl.SSLContext, Path]:
    """A server's TLS context for 127.0.0.1, and the certificate of the private authority behind it."""
    authority, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    names = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]) for name in ("Our own authority", "server")]
    now = datetime.now(UTC)

    def made(subject: x509.Name, public: ec.EllipticCurvePublicKey, extension: x509.ExtensionType) -> x509.Certificate:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(names[0])
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(extension, critical=False)
            .sign(authority, hashes.SHA256())
        )

    root = made(names[0], authority.public_key(), x509.BasicConstraints(ca=True, path_length=None))
    leaf = made(
        names[1], key.public_key(), x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    )
    ca_file, both = tmp_path / "ca.pem", tmp_path / "server.pem"
    # Like a bundle: several certificates with words between them.
    pem = root.public_bytes(serialization.Encoding.PEM)
    ca_file.write_bytes(b"# Our own authority\n" + pem + b"# and once more\n" + pem)
    both.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + leaf.public_bytes(serialization.Encoding.PEM)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(both)
    return context, ca_file


async def test_a_private_authority_is_trusted_if_the_settings_name_it(tmp_path: Path) -> None:
    context, ca_file = certified(tmp_path)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nfine")
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        trusting = HttpClient(url, HttpProviderConfig(ca_file=ca_file), {})
        answer = await trusting.get("/")
        assert isinstance(answer, Answer)
        assert (answer.status, answer.body) == (200, b"fine")
        await trusting.close()
        other = HttpClient(url, HttpProviderConfig(), {})
        refused = await other.get("/")
        assert isinstance(refused, Retry)
        assert (refused.reason, "certificate" in refused.detail) == ("unreachable", True)
        await other.close()
