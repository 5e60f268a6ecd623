"""SMTP transactions: whatever the server says and wherever it breaks off, no mail is lost, doubled or told wrongly."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import msgspec
import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from support.smtp import SmtpStandIn, SmtpVendor, certify, sending, server_context
from support.smtp_model import FakeTransport, Model
from support.vendors import tools_for
from tidings.channels.email.smtp import Smtp
from tidings.channels.registry import build
from tidings.model.notification import EmailContent
from tidings.model.sending import About, EmailDelivery, Rejected, Retry, Sent, Uncertain
from tidings.policy.retry import about

PIPELINED = ("PIPELINING", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES")
PLAIN = ("8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES")
both = pytest.mark.parametrize("extensions", [PIPELINED, PLAIN], ids=["pipelined", "one by one"])


def recipients(server: SmtpStandIn) -> list[str]:
    return [mail.recipients[0] for mail in server.mails]


@both
@pytest.mark.parametrize("trickles", [False, True])
async def test_many_mails_go_over_one_connection(extensions: tuple[str, ...], trickles: bool) -> None:
    server = SmtpStandIn(extensions=extensions, trickles=trickles)
    async with sending(server, connections=1) as (provider, vendor):
        for start in (0, 10):
            results = await provider.send([vendor.delivery(start + number) for number in range(10)])
            assert [type(result) for result in results] == [Sent] * 10
        assert recipients(server) == [f"ada{number}@example.com" for number in range(20)]
        assert server.connections == 1
        assert "RSET" not in server.commands


async def test_commands_are_pipelined_only_where_that_is_announced() -> None:
    written: list[bytes] = []

    class Transport(FakeTransport):
        def write(self, data: bytes) -> None:
            written.append(data)
            super().write(data)

    for extensions, writes in (({"pipelining": ""}, 3), ({}, 8)):
        written.clear()
        server = Model([], extensions)
        assert await server.carry(2, Transport) == [Sent("<0@x>"), Sent("<1@x>")]
        assert len(written) == writes
        assert server.accepted == [0, 1]


@both
@pytest.mark.parametrize("hasty", [False, True])
async def test_a_refusal_costs_nobody_else_anything(extensions: tuple[str, ...], hasty: bool) -> None:
    server = SmtpStandIn(
        extensions=extensions,
        hasty=hasty,
        refused={"ada1@example.com": "550 5.1.1 no such user", "ada2@example.com": "450 4.2.1 later"},
    )
    async with sending(server, connections=1) as (provider, vendor):
        results = await provider.send([vendor.delivery(number) for number in range(5)])
        assert [type(result) for result in results] == [Sent, Rejected, Retry, Sent, Sent]
        assert recipients(server) == ["ada0@example.com", "ada3@example.com", "ada4@example.com"]
        assert server.connections == 1
        assert server.empty_mails == (2 if hasty and "PIPELINING" in extensions else 0)


@both
@pytest.mark.parametrize(
    ("reply", "reason", "fallback"),
    [
        ("552 5.3.4 too big", "too_large", True),
        ("552 message size exceeds fixed maximum message size", "too_large", True),
        ("550 5.1.1 who are you", "sender_refused", True),
        ("552 5.2.2 your mailbox is full", "sender_refused", True),
    ],
)
async def test_a_refusal_of_mail_is_of_the_sender_or_the_size(
    extensions: tuple[str, ...], reply: str, reason: str, fallback: bool
) -> None:
    server = SmtpStandIn(extensions=extensions, replies={"MAIL": reply})
    async with sending(server) as (provider, vendor):
        [result] = await provider.send([vendor.delivery(1)])
        assert isinstance(result, Rejected)
        assert (result.reason, result.fallback, result.suppress) == (reason, fallback, False)


ENDS = {"421": "421 4.3.2 closing", "cut": "cut", "garbage": "garbage"}


@both
@pytest.mark.parametrize("stage", ["MAIL", "RCPT", "DATA", "."])
@pytest.mark.parametrize("end", list(ENDS))
async def test_where_a_used_connection_ends_decides_what_follows(
    extensions: tuple[str, ...], stage: str, end: str
) -> None:
    server = SmtpStandIn(extensions=extensions)
    async with sending(server, connections=1) as (provider, vendor):
        await provider.send([vendor.delivery(0)])
        server.once = {stage: ENDS[end]}
        results = await provider.send([vendor.delivery(number) for number in (1, 2, 3)])
        first = results[0]
        if stage == ".":
            # A reply, even that of a server that closes, says that it has not taken the mail.
            assert isinstance(first, Retry if end == "421" else Uncertain), first
        elif end == "garbage":
            assert isinstance(first, Retry)
            assert about(first) is About.UNOFFERED
        else:
            assert isinstance(first, Sent), "it goes on over another connection at once"
        assert [type(result) for result in results[1:]] == [Sent, Sent]
        arrived = recipients(server)
        assert len(arrived) == len(set(arrived))
        assert {"ada0@example.com", "ada2@example.com", "ada3@example.com"} <= set(arrived)
        assert ("ada1@example.com" in arrived) == isinstance(first, Sent | Uncertain)


@both
async def test_a_server_that_takes_one_mail_for_each_connection(extensions: tuple[str, ...]) -> None:
    server = SmtpStandIn(extensions=extensions, mails_per_connection=1)
    async with sending(server, connections=1) as (provider, vendor):
        for start in (0, 4):
            results = await provider.send([vendor.delivery(start + number) for number in range(4)])
            assert [type(result) for result in results] == [Sent] * 4
        assert recipients(server) == [f"ada{number}@example.com" for number in range(8)]
        assert server.connections == 8


@both
async def test_what_has_no_turn_in_time_is_not_begun(extensions: tuple[str, ...]) -> None:
    server = SmtpStandIn(extensions=extensions, replies={".": "hang"})
    async with sending(server, connections=1, timeout=0.3) as (provider, vendor):
        results = await provider.send([vendor.delivery(number) for number in range(3)])
        assert [type(result) for result in results] == [Uncertain, Retry, Retry]
        assert [about(result) for result in results if isinstance(result, Retry)] == [About.UNOFFERED] * 2
        assert recipients(server) == ["ada0@example.com"]


async def test_a_mail_that_is_too_large_is_not_offered() -> None:
    server = SmtpStandIn(extensions=("PIPELINING", "SIZE 2000"))
    async with sending(server) as (provider, vendor):
        results = await provider.send([vendor.delivery(1), vendor.delivery(2, text="x " * 5000), vendor.delivery(3)])
        assert [type(result) for result in results] == [Sent, Rejected, Sent]
        refused = results[1]
        assert isinstance(refused, Rejected)
        assert (refused.reason, refused.fallback, refused.suppress) == ("too_large", True, False)
        assert "at most 2000" in refused.detail
        assert not any("ada2@" in command for command in server.commands)
        assert [mail.options for mail in server.mails] == [f"SIZE={len(mail.data)}" for mail in server.mails]


@pytest.mark.parametrize("announced", ["SIZE", "SIZE 0", "SIZE many", "SIZE 99999999999999999999"])
async def test_a_server_without_a_limit_is_told_the_size(announced: str) -> None:
    server = SmtpStandIn(extensions=(announced,))
    async with sending(server) as (provider, vendor):
        [result] = await provider.send([vendor.delivery(1, text="x " * 5000)])
        assert isinstance(result, Sent)
        assert server.mails[0].options == f"SIZE={len(server.mails[0].data)}"


def text_alone(delivery: EmailDelivery, text: str) -> EmailDelivery:
    return msgspec.structs.replace(delivery, content=EmailContent(subject="Grüße", text=text))


@pytest.mark.parametrize("text", ["Grüße", "長い" * 100, ".\r\n..\r\n.ü", "Grüße\nund\rmehr"])
async def test_eight_bits_go_only_to_who_takes_them(text: str) -> None:
    plain = re.sub(r"\r\n|\r|\n", "\n", text)
    for extensions, options in ((("8BITMIME",), "BODY=8BITMIME"), ((), "")):
        server = SmtpStandIn(extensions=extensions)
        async with sending(server) as (provider, vendor):
            # The first mail is written before anything is known of the server.
            for number in range(3):
                [result] = await provider.send([text_alone(vendor.delivery(number), text)])
                assert isinstance(result, Sent)
            assert [mail.options for mail in server.mails][1:] == [options] * 2
            assert vendor.arrived() == [(f"ada{number}@example.com", plain) for number in range(3)]
            for mail in server.mails:
                assert mail.data.isascii() == (mail.options == "")
                assert mail.data.partition(b"\r\n\r\n")[0].isascii(), "headers stay ASCII without SMTPUTF8"


async def test_a_server_that_no_longer_takes_eight_bits_gets_seven() -> None:
    server = SmtpStandIn(extensions=("8BITMIME",))
    async with sending(server) as (provider, vendor):
        await provider.send([vendor.delivery(0)])
        server.extensions = ("PIPELINING",)
        server.hang_up()
        results = await provider.send([text_alone(vendor.delivery(number), "Grüße") for number in (1, 2)])
        assert [type(result) for result in results] == [Sent, Sent]
        assert all(mail.data.isascii() and mail.options == "" for mail in server.mails[1:])


async def test_an_early_refusal_of_a_large_mail_is_believed_and_ends_the_session() -> None:
    answered, ended = asyncio.Event(), asyncio.Event()

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example\r\n")
        while line := await reader.readline():
            verb = line[:4].upper()
            if verb == b"EHLO":
                writer.write(b"250-mail.example\r\n250 PIPELINING\r\n")
            elif verb == b"DATA":
                writer.write(b"354 go\r\n")
                await reader.readexactly(1000)
                writer.write(b"552 5.3.4 too large\r\n")
                await answered.wait()
                break
            else:
                writer.write(b"250 ok\r\n")
        writer.transport.abort()
        ended.set()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0, limit=2**16)
    port = server.sockets[0].getsockname()[1]
    provider = build("smtp", {"host": "127.0.0.1", "port": port, "from_address": "a@b.example"}, tools_for())
    assert isinstance(provider, Smtp)
    [result] = await provider.send([SmtpVendor().delivery(1, text="word " * 4_000_000)])
    assert isinstance(result, Rejected)
    assert result.reason == "too_large"
    assert provider._idle == []
    answered.set()
    await ended.wait()
    await provider.close()
    server.close()
    await server.wait_closed()


async def test_a_slow_server_gets_few_mails_at_once_and_a_fast_one_many() -> None:
    async with sending(SmtpStandIn(extensions=PIPELINED)) as (provider, vendor):
        assert provider.batch_size == 1
        for start in range(0, 200, 20):
            await provider.send([vendor.delivery(start + number) for number in range(20)])
        fast = provider.batch_size
        for _ in range(20):
            provider._note_pace(0.3)
        assert provider.batch_size == 1 < fast


def test_it_works_over_uvloop_with_and_without_tls(tmp_path: Path) -> None:
    certificate = server_context(certify(tmp_path / "both.pem"))

    async def both_ways() -> None:
        for security in ("none", "starttls", "tls"):
            context = None if security == "none" else certificate
            server = SmtpStandIn(extensions=PIPELINED, tls=context, implicit_tls=security == "tls")
            async with sending(server, security=security, validate_certificates=False) as (provider, vendor):
                for start in (0, 5):
                    results = await provider.send([vendor.delivery(start + number) for number in range(5)])
                    assert [type(result) for result in results] == [Sent] * 5
                server.hang_up()
                [result] = await provider.send([vendor.delivery(99, text="x" * 2_000_000)])
                assert isinstance(result, Sent)
                assert len(server.mails) == 11

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(both_ways())


SAID = st.sampled_from(
    [
        "",
        "",
        "",
        "",
        "",
        "250 ok",
        "354 go",
        "450 4.2.0 later",
        "550-5.1.1 no\r\n550 5.1.1 user",
        "421 bye",
        "cut",
        "nonsense",
    ]
)


@settings(max_examples=400, deadline=None)
@given(
    script=st.lists(SAID, max_size=30),
    pipelining=st.booleans(),
    sizes=st.lists(st.integers(1, 40), max_size=20),
    count=st.integers(1, 6),
)
def test_what_is_told_is_what_happened(script: list[str], pipelining: bool, sizes: list[int], count: int) -> None:
    server = Model(script, {"pipelining": ""} if pipelining else {}, sizes)
    results = asyncio.run(asyncio.wait_for(server.carry(count), 5))
    assert len(server.received) == len(set(server.received)), "no mail is sent twice"
    for number, result in enumerate(results):
        if isinstance(result, Sent):
            assert number in server.accepted
        elif isinstance(result, Uncertain):
            assert number in server.received
        else:
            assert number not in server.accepted, result
        if isinstance(result, Retry) and about(result) is About.UNOFFERED and "421" not in result.detail:
            assert number not in server.received
        if result is None:
            assert number not in server.received
            assert all(later is None for later in results[number:]), "those after it had no turn either"
    assert results[0] is not None, "the first mail of a session is told what came of it"
