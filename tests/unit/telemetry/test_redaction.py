"""Redaction: what is removed from log lines, and what stays."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from tidings.model.errors import Unavailable
from tidings.telemetry import logs
from tidings.telemetry.redaction import described, redacted


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("no mailbox ada@example.com", "ada@example.com"),
        ("<ada.lovelace+x@xn--exmple-cua.com>: refused", "ada.lovelace"),
        ("refused üser@bücher.example", "üser"),
        ("'To' number +49 (30) 1234-567 is not valid", "1234-567"),
        ("/v1/suppressions/sms/%2B491512345678", "491512345678"),
        ("Authorization: Bearer sk.abc-def_123", "abc-def_123"),
        ("the key tk_0123456789abcdef is unknown", "0123456789abcdef"),
        ("jwt eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl", "c2lnbmF0dXJl"),
        ("postgresql://tidings:pa55@db.internal:5432/x", "pa55"),
        ("postgresql://tidings:p@55@db.internal:5432/x", "p@55"),
        ("password=hunter2 host=db", "hunter2"),
        ('{"api_key": "abcdef"}', "abcdef"),
        ("duplicate key value\nDETAIL:  Key (address)=(x) already exists.", "(x)"),
        ("Failing row contains (1, Your code is 99).", "Your code"),
        ("Task exception was never retrieved future: <Task exception=ValueError('Your code')>", "Your code"),
    ],
)
def test_redaction_removes_personal_data_and_secrets(text: str, secret: str) -> None:
    assert secret in text
    assert secret not in redacted(text)


@pytest.mark.parametrize(
    "text",
    [
        "no answer within 10 s",
        "connection to 127.0.0.1:5432 refused",
        "deliveries.email.normal",
        "ntf_06c0g5s7xk7dz4v2y9q8w3e1rt",
        "2026-11-28T20:15:00.123456Z",
        "550 5.1.1 no such user",
        "http://127.0.0.1:8400/v1/receipts",
        "partition 3 at 1234567890123",
    ],
)
def test_redaction_keeps_harmless_text(text: str) -> None:
    assert redacted(text) == text


def test_a_long_text_is_cut_and_costs_little() -> None:
    assert len(redacted("a@" * 500_000)) <= 2_000


def test_messages_that_may_hold_content_are_left_out() -> None:
    assert "Your code" not in described(ValueError("Your code is 123"))
    assert "Your code" in described(ValueError("Your code is 123"), whole=True)
    assert described(Unavailable("the broker does not answer")) == "Unavailable: the broker does not answer"
    assert described(ConnectionRefusedError(111, "Connection refused")).startswith("ConnectionRefusedError: ")


@pytest.fixture(params=["json", "text"])
def written(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """The output of a process that logs in this style."""
    out = io.StringIO()
    monkeypatch.setattr("sys.stderr", out)
    root = logging.getLogger()
    before, level, configured = root.handlers[:], root.level, structlog.get_config()
    logs.configure("debug", request.param, "worker")
    try:
        yield out
    finally:
        root.handlers[:] = before
        root.setLevel(level)
        structlog.configure(**configured)
        structlog.contextvars.clear_contextvars()


def test_a_line_has_neither_locals_nor_addresses_nor_messages(written: io.StringIO) -> None:
    password = "hunter2hunter2"
    try:
        try:
            {"user": 1}[password]
        except KeyError as error:
            raise RuntimeError(f"cannot send 'Your code is 4711' with {password}") from error
    except RuntimeError:
        structlog.get_logger("tidings.test").exception("failed", to="ada@example.com", seen=["+491512345678"], number=7)
    logging.getLogger("asyncio").error("%s", "ada@example.com", exc_info=ValueError("Your code is 4711"))
    said = written.getvalue()
    assert "RuntimeError" in said
    assert "KeyError" in said
    assert "test_redaction.py" in said
    assert "number" in said
    for secret in (password, "4711", "ada@example.com", "491512345678"):
        assert secret not in said


def test_json_lines_are_json(monkeypatch: pytest.MonkeyPatch, written: io.StringIO) -> None:
    structlog.get_logger("tidings.test").warning("a line\nand another", why="x")
    said = written.getvalue()
    if said.startswith("{"):
        (line,) = said.splitlines()
        assert json.loads(line)["why"] == "x"
    else:
        assert "a line" in said
