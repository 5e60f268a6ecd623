"""SMTP: whom a refusal is about, where a conversation ends, and what follows for the delivery."""

from __future__ import annotations

import pytest

from support.smtp import SmtpStandIn, sending
from tidings.model.sending import About, Rejected, Retry, Sent, Uncertain
from tidings.policy.retry import about, is_fault


async def test_each_recipient_has_an_answer_of_its_own() -> None:
    async with sending(connections=1) as (provider, vendor):
        vendor.server.refused = {
            "ada1@example.com": "550 5.1.1 no such user",
            "ada2@example.com": "450 4.2.0 later",
            "ada3@example.com": "550 5.7.1 spam",
            "ada4@example.com": "550-5.1.1 The account does not exist.\r\n550 5.1.1 Look at the address.",
            "ada5@example.com": "550 4.1.1 the digits contradict each other",
        }
        results = await provider.send([vendor.delivery(number) for number in range(7)])
        assert [type(result) for result in results] == [Sent, Rejected, Retry, Rejected, Rejected, Rejected, Sent]
        assert [result.suppress for result in results if isinstance(result, Rejected)] == [True, False, True, False]
        assert vendor.server.connections == 1
        assert [mail.recipients for mail in vendor.server.mails] == [["ada0@example.com"], ["ada6@example.com"]]


async def test_a_refused_sender_is_not_the_recipients_fault() -> None:
    async with sending() as (provider, vendor):
        vendor.server.replies["MAIL"] = "550 5.1.1 who are you"
        [result] = await provider.send([vendor.delivery(1)])
        assert isinstance(result, Rejected)
        assert (result.reason, result.suppress, result.fallback) == ("sender_refused", False, True)


@pytest.mark.parametrize(
    ("stage", "reply", "expected"),
    [
        (".", "554 5.7.1 looks like spam", Rejected),
        (".", "451 4.3.0 try later", Retry),
        (".", "299 what", Uncertain),
        (".", "cut", Uncertain),
        ("DATA", "451 4.3.0 try later", Retry),
        ("DATA", "cut", Retry),
        ("DATA", "hang", Retry),
        ("DATA", "garbage", Retry),
        ("DATA", "250 2.0.0 thanks, but no", Retry),
        (".", "hang", Uncertain),
        (".", "garbage", Uncertain),
        ("RCPT", "cut", Retry),
        ("RCPT", "garbage", Retry),
        ("RCPT", "hang", Retry),
        ("MAIL", "cut", Retry),
        ("EHLO", "cut", Retry),
        ("GREETING", "hang", Retry),
        ("GREETING", "garbage", Retry),
        ("GREETING", "554 go away", Retry),
        ("GREETING", "421 busy", Retry),
    ],
)
async def test_where_it_ends_tells_what_follows(stage: str, reply: str, expected: type) -> None:
    async with sending(timeout=0.5) as (provider, vendor):
        vendor.server.replies[stage] = reply
        [result] = await provider.send([vendor.delivery(1)])
        assert isinstance(result, expected), result
        vendor.server.replies.clear()
        [result] = await provider.send([vendor.delivery(2)])
        assert isinstance(result, Sent)


async def test_a_full_mailbox_is_no_bad_address() -> None:
    async with sending() as (provider, vendor):
        vendor.server.refused = {
            "ada1@example.com": "452 4.2.2 over quota",
            "ada2@example.com": "552 5.2.2 over quota",
            "ada3@example.com": "450 4.1.1 no such user, for now",
            "ada4@example.com": "552 full",
        }
        results = await provider.send([vendor.delivery(number) for number in range(1, 5)])
        assert [type(result) for result in results] == [Retry, Rejected, Retry, Rejected]
        assert not any(result.suppress for result in results if isinstance(result, Rejected))


@pytest.mark.parametrize(
    "replies",
    [
        {"GREETING": "554 5.3.2 no SMTP service here"},
        {"GREETING": "421 4.3.2 shutting down"},
        {"GREETING": "cut"},
        {"GREETING": "garbage"},
        {"EHLO": "421 4.3.2 shutting down"},
        {"MAIL": "421 4.3.2 shutting down"},
        {"MAIL": "451 4.3.0 cannot take mail now"},
        {"MAIL": "450 4.7.1 your address is not known here yet"},
        {"RCPT": "421 4.7.0 too many connections"},
        {"DATA": "cut"},
        {"DATA": "421 4.3.2 shutting down"},
    ],
    ids=str,
)
async def test_what_was_never_offered_uses_up_no_attempt(replies: dict[str, str]) -> None:
    async with sending(timeout=2) as (provider, vendor):
        vendor.server.replies = replies
        [result] = await provider.send([vendor.delivery(1)])
        assert isinstance(result, Retry)
        assert about(result) is About.UNOFFERED
        assert is_fault(result), "the breaker counts it"
        assert not vendor.server.mails


async def test_a_server_that_is_not_there_uses_up_no_attempt() -> None:
    async with sending() as (provider, vendor):
        refused_port = vendor.server.port
    async with sending(port=refused_port) as (provider, vendor):
        [result] = await provider.send([vendor.delivery(1)])
        assert isinstance(result, Retry)
        assert (result.reason, about(result)) == ("unreachable", About.UNOFFERED)


@pytest.mark.parametrize("said", ["451 4.7.1 Greylisted", "451 Greylisted, come back", "450 4.2.0 later", "452 full"])
@pytest.mark.parametrize("stage", ["RCPT", "."])
async def test_a_mail_that_is_put_off_is_offered_again_patiently(stage: str, said: str) -> None:
    async with sending() as (provider, vendor):
        vendor.server.replies = {stage: said}
        [result] = await provider.send([vendor.delivery(1)])
        assert isinstance(result, Retry)
        assert (about(result), result.patient) == (About.DELIVERY, True)
        assert not is_fault(result), "other mails go on"


async def test_too_much_mail_from_us_is_about_the_account() -> None:
    async with sending() as (provider, vendor):
        vendor.server.refused = {"ada1@example.com": "450 4.7.28 unusual rate of mail"}
        [result] = await provider.send([vendor.delivery(1)])
        assert isinstance(result, Retry)
        assert (result.reason, about(result)) == ("throttled", About.ACCOUNT)


async def test_a_server_of_ascii_alone_says_so() -> None:
    async with sending(SmtpStandIn(extensions=("8BITMIME",))) as (provider, vendor):
        [result] = await provider.send([vendor.delivery(1, to="用户@example.com")])
        assert isinstance(result, Rejected)
        assert (result.reason, result.suppress, result.fallback) == ("address_not_supported", False, True)
