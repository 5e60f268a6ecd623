"""SMTP: TLS, login and greeting, connections and their reuse, and settings."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from typing import Any

import pytest

from support import eventually
from support.smtp import SmtpStandIn, certify, sending, server_context
from support.vendors import tools_for
from tidings.channels.email.smtp import Smtp
from tidings.channels.registry import build
from tidings.model.errors import SettingsError
from tidings.model.sending import About, Retry, Sent, Uncertain
from tidings.policy.retry import is_fault


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and the certificate that goes with it, good for 127.0.0.1."""
    return certify(tmp_path_factory.mktemp("tls") / "both.pem")


@pytest.fixture(scope="module")
def certificate(pem: Path) -> ssl.SSLContext:
    return server_context(pem)


@pytest.mark.parametrize("security", ["tls", "starttls"])
async def test_over_tls_with_a_login(certificate: ssl.SSLContext, security: str) -> None:
    server = SmtpStandIn(tls=certificate, implicit_tls=security == "tls", login=("ada", "s3cret"))
    login = {"username": "ada", "password": "s3cret", "validate_certificates": False, "security": security}
    async with sending(server, **login) as (provider, vendor):
        assert f"accepted the login of ada over {security}" in await provider.check()
        assert [type(result) for result in await provider.send([vendor.delivery(1)])] == [Sent]


@pytest.mark.parametrize("security", ["tls", "starttls"])
async def test_a_certificate_that_proves_nothing_is_refused(certificate: ssl.SSLContext, security: str) -> None:
    server = SmtpStandIn(tls=certificate, implicit_tls=security == "tls")
    async with sending(server, security=security) as (provider, vendor):
        with pytest.raises(SettingsError, match="certificate verify failed"):
            await provider.check()
        [result] = await provider.send([vendor.delivery(1)])
        assert isinstance(result, Retry)
        assert vendor.server.mails == []


@pytest.mark.parametrize("security", ["tls", "starttls"])
async def test_an_authority_of_ones_own_is_trusted_when_it_is_named(
    certificate: ssl.SSLContext, pem: Path, security: str
) -> None:
    server = SmtpStandIn(tls=certificate, implicit_tls=security == "tls", login=("ada", "s3cret"))
    login = {"username": "ada", "password": "s3cret", "security": security}
    async with sending(server, **login, ca_file=str(pem)) as (provider, vendor):
        assert f"accepted the login of ada over {security}" in await provider.check()
        assert [type(result) for result in await provider.send([vendor.delivery(1)])] == [Sent]
    async with sending(SmtpStandIn(tls=certificate, implicit_tls=security == "tls"), security=security) as (other, _):
        with pytest.raises(SettingsError, match=r"providers\.smtp\.ca_file"):
            await other.check()


@pytest.mark.parametrize(
    ("host", "greeting"),
    [
        ("localhost", "[127.0.0.1]"),
        ("büro-pc", "[127.0.0.1]"),
        ("my_host.example", "[127.0.0.1]"),
        ("worker", "[127.0.0.1]"),
        ("worker-1.shop.example", "worker-1.shop.example"),
    ],
)
async def test_the_greeting_is_valid_whatever_the_machine_is_called(
    monkeypatch: pytest.MonkeyPatch, certificate: ssl.SSLContext, host: str, greeting: str
) -> None:
    monkeypatch.setattr("socket.getfqdn", lambda: host)
    server = SmtpStandIn(tls=certificate)
    more = {"security": "starttls", "validate_certificates": False, "helo_name": None}
    async with sending(server, **more) as (provider, vendor):
        assert "accepted a session" in await provider.check()
        [result] = await provider.send([vendor.delivery(1)])
        assert isinstance(result, Sent)
    greetings = [line for line in server.commands if line.startswith(("EHLO", "HELO"))]
    assert greetings == [f"EHLO {greeting}"] * 4


async def test_a_name_in_the_settings_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.getfqdn", lambda: "worker-1.shop.example")
    async with sending(helo_name="mx.shop.example") as (provider, vendor):
        await provider.send([vendor.delivery(1)])
        assert vendor.server.commands[0] == "EHLO mx.shop.example"


@pytest.mark.parametrize(
    "reply",
    [
        "504 5.5.2 <localhost>: Helo command rejected: need fully-qualified hostname",
        "550 5.7.1 Helo invalid",
        "501 5.5.4 Invalid domain name",
        "554 no",
    ],
)
async def test_a_refused_greeting_is_told_as_such_and_costs_no_attempt(reply: str) -> None:
    server = SmtpStandIn(replies={"EHLO": reply, "HELO": reply})
    async with sending(server) as (provider, vendor):
        with pytest.raises(SettingsError, match=r"providers\.smtp\.helo_name") as refused:
            await provider.check()
        assert reply[:3] in str(refused.value)
        assert "security" not in str(refused.value)
        [result] = await provider.send([vendor.delivery(1)])
        assert isinstance(result, Retry)
        assert (result.reason, result.about, is_fault(result)) == ("greeting_refused", About.UNOFFERED, True)
        assert result.after_s is not None
        assert result.after_s >= 60
        assert "providers.smtp.helo_name" in result.detail
        assert "EHLO tidings.example" in result.detail
        assert vendor.server.mails == []


@pytest.mark.parametrize("reply", ["451 4.3.0 later", "450 busy", "421 4.3.2 shutting down"])
async def test_a_greeting_that_is_put_off_is_for_later(reply: str) -> None:
    async with sending(SmtpStandIn(replies={"EHLO": reply})) as (provider, vendor):
        [result] = await provider.send([vendor.delivery(1)])
        assert isinstance(result, Retry)
        assert (result.about, result.reason in {"service_unavailable", "unreachable"}) == (About.UNOFFERED, True)
        assert not any(line.startswith("HELO") for line in vendor.server.commands)


async def test_a_server_that_knows_no_ehlo_is_greeted_the_old_way() -> None:
    async with sending(SmtpStandIn(replies={"EHLO": "502 5.5.1 command not recognised"})) as (provider, vendor):
        [result] = await provider.send([vendor.delivery(1)])
        assert isinstance(result, Sent)
        assert vendor.server.commands[:2] == ["EHLO tidings.example", "HELO tidings.example"]


async def test_starttls_is_never_skipped() -> None:
    async with sending(security="starttls") as (provider, vendor):
        with pytest.raises(SettingsError, match=r"providers\.smtp\.security = starttls"):
            await provider.check()
        [result] = await provider.send([vendor.delivery(1)])
        assert isinstance(result, Retry)
        assert vendor.server.mails == []


async def test_a_connection_that_was_closed_meanwhile_costs_nothing() -> None:
    async with sending() as (provider, vendor):
        await provider.send([vendor.delivery(1)])
        vendor.server.hang_up()
        [result] = await provider.send([vendor.delivery(2)])
        assert isinstance(result, Sent)
        assert vendor.server.connections == 2


async def test_waiting_for_a_connection_is_never_uncertain() -> None:
    async with sending(connections=1, timeout=0.3) as (provider, vendor):
        vendor.server.replies["."] = "hang"
        first, second = await asyncio.gather(provider.send([vendor.delivery(1)]), provider.send([vendor.delivery(2)]))
        assert [type(first[0]), type(second[0])] == [Uncertain, Retry]
        assert [mail.recipients for mail in vendor.server.mails] == [["ada1@example.com"]]


async def test_no_more_connections_than_allowed() -> None:
    async with sending(connections=3) as (provider, vendor):
        batches = [[vendor.delivery(10 * start + n) for n in range(4)] for start in range(8)]
        answers = await asyncio.gather(*[provider.send(batch) for batch in batches])
        assert all(isinstance(result, Sent) for answer in answers for result in answer)
        assert vendor.server.connections <= 3


async def test_a_cancelled_send_leaves_no_half_used_connection() -> None:
    async with sending() as (provider, vendor):
        await provider.send([vendor.delivery(1)])
        vendor.server.replies["RCPT"] = "hang"
        sending_it = asyncio.create_task(provider.send([vendor.delivery(2)]))
        await eventually(lambda: any("ada2@" in command for command in vendor.server.commands))
        sending_it.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending_it
        vendor.server.replies.clear()
        [result] = await provider.send([vendor.delivery(3)])
        assert isinstance(result, Sent)
        assert vendor.server.connections == 2


async def test_addresses_in_other_scripts() -> None:
    async with sending() as (provider, vendor):
        results = await provider.send(
            [vendor.delivery(1, to="ada@bücher.example"), vendor.delivery(2, to="用户@例え.example")]
        )
        assert [type(result) for result in results] == [Sent, Sent]
        mails = {mail.recipients[0]: mail for mail in vendor.server.mails}
        assert set(mails) == {"ada@xn--bcher-kva.example", "用户@xn--r8jz45g.example"}
        assert mails["ada@xn--bcher-kva.example"].options == ""
        assert mails["用户@xn--r8jz45g.example"].options == "SMTPUTF8 BODY=8BITMIME"


@pytest.mark.parametrize(
    ("section", "transport", "port"),
    [
        ({"host": "mail.example"}, "starttls", 587),
        ({"host": "mail.example", "port": 465}, "tls", 465),
        ({"host": "mail.example", "port": 2525}, "starttls", 2525),
        ({"host": "mail.example", "security": "none"}, "none", 25),
        ({"host": "localhost"}, "none", 25),
        ({"host": "::1", "port": 1025}, "none", 1025),
        ({"host": "127.0.0.1", "security": "tls"}, "tls", 465),
    ],
)
def test_security_is_the_default(section: dict[str, Any], transport: str, port: int) -> None:
    provider = build("smtp", {"from_address": "a@b.example", **section}, tools_for())
    assert isinstance(provider, Smtp)
    assert (provider._config.transport, provider._port) == (transport, port)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"username": "ada"}, "username and password go together"),
        ({"username": "ada", "password": "x", "security": "none"}, "password readable over the network"),
        ({"username": "ada", "password": "x", "validate_certificates": False}, "to whoever answers"),
        ({"ca_file": "/nowhere/ca.pem"}, r"providers\.smtp\.ca_file cannot be used: .*cannot be read"),
        ({"ca_file": __file__}, r"providers\.smtp\.ca_file cannot be used: .*no certificates"),
        ({"from_address": "The Shop <a@b.example>"}, "one plain email address"),
        ({"from_name": "The\r\nBcc: x@y.example"}, "one line"),
        ({"host": "mail.example\r\n"}, r"providers\.smtp\.host"),
        ({"port": 0}, r"providers\.smtp\.port"),
    ],
)
def test_settings_that_cannot_work_are_told(more: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        build("smtp", {"host": "mail.example", "from_address": "a@b.example"} | more, tools_for())


@pytest.mark.parametrize(
    "more",
    [
        {"validate_certificates": False},
        {"username": "ada", "password": "x", "validate_certificates": False, "allow_insecure": True},
        {"username": "ada", "password": "x", "security": "none", "allow_insecure": True},
        {"username": "ada", "password": "x", "validate_certificates": False, "host": "127.0.0.1"},
    ],
)
def test_what_is_asked_for_is_allowed(more: dict[str, Any]) -> None:
    provider = build("smtp", {"host": "mail.example", "from_address": "a@b.example"} | more, tools_for())
    assert isinstance(provider, Smtp)


async def test_check_tells_that_nobody_listens() -> None:
    async with sending() as (_, vendor):
        port = vendor.server.port
    provider = build("smtp", {"host": "127.0.0.1", "port": port, "from_address": "a@b.example"}, tools_for())
    with pytest.raises(SettingsError, match="there is no connection to"):
        await provider.check()
    await provider.close()
