"""Who may use the sandbox's own routes."""

from __future__ import annotations

import pytest

from tidings.sandbox.credentials import Credentials, is_guarded, token_of
from tidings.sandbox.gate import COOKIE, Gate
from tidings.sandbox.wire import Answer, Request


def asked(host: str, path: str = "/", query: str = "", method: str = "GET", **headers: str) -> Request:
    pairs = [(name.encode(), value.encode()) for name, value in {"host": host, **headers}.items()]
    return Request(method, path, query, pairs, b"")


def status(answer: Answer | None) -> int | None:
    return None if answer is None else answer.status


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1:8401", "localhost:9999", "localhost", "LOCALHOST", "[::1]:8401", "viewer.localhost", "127.0.0.2"],
)
def test_on_loopback_this_machine_needs_no_token(credentials: Credentials, host: str) -> None:
    assert Gate("127.0.0.1", (), credentials).refusal(asked(host)) is None


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8401", "127.0.0.1.evil.example", "localhost.evil.example", "", "[", "a b"]
)
@pytest.mark.parametrize(
    "path", ["/", "/_sandbox/arrivals", "/_sandbox/events", "/_sandbox/faults", "/_sandbox/mail/1"]
)
def test_a_name_that_another_website_points_at_this_machine_is_refused(
    credentials: Credentials, host: str, path: str
) -> None:
    for method in ("GET", "POST", "DELETE"):
        assert status(Gate("127.0.0.1", (), credentials).refusal(asked(host, path, method=method))) == 421


def test_a_sandbox_that_others_can_reach_asks_for_the_token(credentials: Credentials) -> None:
    gate, token = Gate("0.0.0.0", (), credentials), token_of(credentials)
    host = "192.168.1.5:8401"
    assert status(gate.refusal(asked(host))) == 401
    assert status(gate.refusal(asked("127.0.0.1:8401", "/_sandbox/arrivals"))) == 401
    assert status(gate.refusal(asked(host, query="token=wrong"))) == 401
    assert status(gate.refusal(asked(host, "/_sandbox/arrivals", f"token={token}"))) == 401
    welcome = gate.refusal(asked(host, query=f"token={token}"))
    assert welcome is not None
    assert welcome.status == 303
    cookie = dict(welcome.headers)[b"set-cookie"].decode()
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert gate.refusal(asked(host, "/_sandbox/events", cookie=cookie.partition(";")[0])) is None
    assert status(gate.refusal(asked(host, "/_sandbox/events", cookie=f"{COOKIE}=wrong"))) == 401
    assert gate.refusal(asked(host, "/_sandbox/inapp", method="POST", authorization=f"Bearer {token}")) is None
    assert gate.refusal(asked(host, "/healthz")) is None
    assert status(gate.refusal(asked("sandbox.example", "/healthz"))) == 421


def test_a_name_that_is_allowed_is_let_in_with_the_token(credentials: Credentials) -> None:
    gate, token = Gate("127.0.0.1", ("Sandbox.Example",), credentials), token_of(credentials)
    assert status(gate.refusal(asked("sandbox.example:443"))) == 401
    assert gate.refusal(asked("sandbox.example", authorization=f"Bearer {token}")) is None
    assert status(gate.refusal(asked("other.example", authorization=f"Bearer {token}"))) == 421


@pytest.mark.parametrize(
    ("host", "names", "guarded"),
    [
        ("127.0.0.1", (), False),
        ("::1", (), False),
        ("localhost", (), False),
        ("0.0.0.0", (), True),
        ("::", (), True),
        ("192.168.1.5", (), True),
        ("127.0.0.1", ("x.example",), True),
    ],
)
def test_when_a_token_is_asked_for(host: str, names: tuple[str, ...], guarded: bool) -> None:
    assert is_guarded(host, names) is guarded
