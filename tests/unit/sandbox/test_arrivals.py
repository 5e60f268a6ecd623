from __future__ import annotations

import json
from email.message import EmailMessage
from pathlib import Path

import pytest

from tidings.model.errors import SettingsError
from tidings.sandbox.arrivals import Arrival, ArrivalLog, Body, Mime, Parts
from tidings.sandbox.looks import html_page, look
from tidings.sandbox.magic import EMAIL_PLANS, PUSH_REFUSALS, SMTP_ANSWERS, email_word, table, token_word


def arrival(
    to: str = "ana@example.com",
    channel: str = "email",
    body: Body | None = None,
    size: int = 10,
    reference: str = "",
    tags: dict[str, str] | None = None,
) -> Arrival:
    return Arrival(
        seq=0,
        at=0,
        channel=channel,
        vendor="sendgrid",
        to=to,
        sender="shop@example.com",
        body=body or Parts(text="hello"),
        reference=reference,
        tags=tags or {},
        bytes=size,
    )


def test_they_are_numbered_and_found() -> None:
    log = ArrivalLog()
    log.add([arrival("ana@example.com", reference="r1"), arrival("bo@example.com")])
    log.add([arrival("+34600000001", "sms")])
    assert [one.seq for one in log.since(0, 10)] == [1, 2, 3]
    assert [one.seq for one in log.since(1, 1)] == [2]
    assert [one.seq for one in log.since(0, 10, channel="sms")] == [3]
    assert [one.seq for one in log.since(0, 10, recipient="bo@")] == [2]
    assert [one.seq for one in log.newest(2)] == [2, 3]
    found = log.by_reference("r1")
    assert found is not None
    assert log.by_seq(1) is found
    assert (log.by_seq(0), log.by_seq(4), log.by_reference("r2")) == (None, None, None)
    assert log.counts["sendgrid", "taken"] == 3


def test_memory_is_bounded_by_number_and_by_bytes() -> None:
    log = ArrivalLog(capacity=3)
    log.add([arrival(f"u{number}@example.com", reference=f"r{number}") for number in range(10)])
    assert (log.oldest, log.latest) == (8, 10)
    assert log.by_reference("r0") is None
    log = ArrivalLog(max_bytes=1000)
    log.add([arrival(size=400) for _ in range(10)])
    assert [one.seq for one in log.since(0, 100)] == [9, 10]
    log.add([arrival(size=5000)])
    assert [one.seq for one in log.since(0, 100)] == [11]


def test_each_channel_keeps_its_newest() -> None:
    log = ArrivalLog(capacity=100)
    log.add([arrival("+34600000001", "sms"), arrival("+34600000002", "sms")])
    log.add([arrival(f"u{number}@example.com") for number in range(1_000)])
    assert [one.seq for one in log.newest(9, channel="sms")] == [1, 2]
    assert [one.seq for one in log.newest(2, channel="email", before=1_000)] == [998, 999]
    assert [one.seq for one in log.newest(2, recipient="U990@")] == [993]
    assert [one.seq for one in log.newest_of_each(2, 0)] == [1, 2, 1_001, 1_002]
    assert [one.seq for one in log.newest_of_each(2, 1_001)] == [1_002]
    assert [one.seq for one in log.since(1, 2)] == [2, 905]
    assert (log.oldest, len(log.since(0, 10_000))) == (905, 100)
    log = ArrivalLog(max_bytes=1_000)
    log.add([arrival("+34600000001", "sms", size=10), *(arrival(size=300) for _ in range(9))])
    assert [one.channel for one in log.since(0, 10)] == ["sms", "email", "email", "email"]


def test_clearing_forgets_all_but_the_numbers() -> None:
    log = ArrivalLog()
    log.add([arrival()])
    log.clear()
    log.add([arrival()])
    assert [one.seq for one in log.since(0, 10)] == [2]
    assert log.by_seq(2) is not None
    assert log.counts["sendgrid", "taken"] == 1


def test_the_file_has_a_line_for_each(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "arrivals.jsonl"
    log = ArrivalLog(path=path)
    log.add([arrival(tags={"tidings_delivery": "dlv_1", "tidings_attempt": "2"}), arrival(tags={"delivery": "dlv_2"})])
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["delivery"], line["attempt"], line["status"]) for line in lines] == [
        ("dlv_1", "2", "accepted"),
        ("dlv_2", "", "accepted"),
    ]
    log.close()
    again = ArrivalLog(path=path)
    again.add([arrival()])
    again.close()
    assert len(path.read_text().splitlines()) == 3


def test_a_file_that_cannot_be_written_is_refused_in_plain_words(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot write its log"):
        ArrivalLog(path=tmp_path)


async def test_a_watcher_is_told_of_arrivals_and_changes() -> None:
    log = ArrivalLog()
    watcher = log.watch()
    one = arrival()
    log.add([one])
    assert watcher.event.is_set()
    log.set_status(one, "bounce", "550")
    assert watcher.take_changes() == {1: ("bounce", "550")}
    assert watcher.take_changes() == {}
    log.unwatch(watcher)
    log.set_status(one, "delivered")
    assert watcher.changed == {}


def test_a_look_makes_the_substitutions() -> None:
    parts = Parts(title="Hi -name-", text="Dear -name-", html="<p>-name-</p>", substitutions={"-name-": "Ana"})
    one = look(arrival(body=parts))
    assert (one.title, one.text, one.html) == ("Hi Ana", "Dear Ana", True)
    assert html_page(arrival(body=parts)).endswith("<p>Ana</p>")


def test_a_look_counts_segments() -> None:
    one = look(arrival("+34600000001", "sms", Parts(text="ñandú 🚚" * 12)))
    assert (one.encoding, one.segments) == ("ucs-2", 2)


@pytest.mark.parametrize("charset", ["utf-8", "iso-2022-jp"])
def test_a_look_reads_mime(charset: str) -> None:
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = "お店 <shop@example.com>", "優希 <yuki@example.com>", "ご注文"
    mail.set_content("木曜日にお届けします。", charset=charset)
    mail.add_alternative("<p>木曜日</p>", subtype="html")
    one = look(arrival(body=Mime(mail.as_bytes())))
    assert (one.title, one.from_name, one.to_name) == ("ご注文", "お店", "優希")
    assert one.text.strip() == "木曜日にお届けします。"
    assert one.html


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x00\xff\xfe",
        b"Content-Type: text/plain; charset=no-such\r\n\r\nhello",
        b"Content-Type: multipart/mixed\r\n\r\n--x\r\n",
        b"Subject: =?utf-8?b?////?=\r\nFrom: <<<>>>\r\n\r\n\xff",
        b"Content-Type: text/html; charset=utf-7\r\n\r\n+ADw-script+AD4-",
    ],
)
def test_a_look_survives_broken_mime(raw: bytes) -> None:
    assert look(arrival(body=Mime(raw))).channel == "email"


@pytest.mark.parametrize(
    ("address", "word"),
    [
        ("bounce@example.com", "bounce"),
        ("Bounce+42@example.com", "bounce"),
        ("spam.me@example.com", "spam"),
        ("bouncer@example.com", ""),
        ("ana@bounce.example.com", ""),
        ("openly@example.com", ""),
        ("open2@example.com", "open"),
    ],
)
def test_magic_words_of_email(address: str, word: str) -> None:
    assert email_word(address) == word


def test_magic_words_of_tokens() -> None:
    assert token_word("unregistered-42") == "unregistered"
    assert token_word("unregisteredx") == ""


def test_every_magic_address_in_the_table_works() -> None:
    for one in table():
        if one.channel in ("email", "smtp"):
            assert email_word(one.value)
        elif one.channel == "push":
            assert token_word(one.value) in PUSH_REFUSALS
        else:
            assert one.value.startswith("+1500555")
    assert set(EMAIL_PLANS) & set(SMTP_ANSWERS)
