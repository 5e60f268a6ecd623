"""The sandbox's own routes, its receipts while the receiver fails, and its start and stop."""

from __future__ import annotations

import asyncio
import json
from uuid import UUID

import pytest
from pyreqwest.client import Client

from support import eventually
from support.sandbox import Caller, Listener
from tidings.backends.memory.inbox import MemoryInbox
from tidings.model.errors import SettingsError
from tidings.model.history import InboxItem
from tidings.model.ids import to_text
from tidings.sandbox.credentials import Credentials
from tidings.sandbox.mirror import MirroredInbox
from tidings.sandbox.server import Handle, serve


async def test_arrivals_can_be_read_in_pages(caller: Caller) -> None:
    for number in range(3):
        await caller.email(f"u{number}@example.com", "Hello", "Hello", "", marks={"tidings_delivery": f"dlv_{number}"})
    await caller.sms("+34600000001", "Hello")
    page = await caller.get("/_sandbox/arrivals?limit=2")
    assert [arrival["delivery"] for arrival in page["arrivals"]] == ["dlv_0", "dlv_1"]
    rest = await caller.get(f"/_sandbox/arrivals?since={page['arrivals'][-1]['seq']}")
    assert [arrival["to"] for arrival in rest["arrivals"]] == ["u2@example.com", "+34600000001"]
    only = await caller.get("/_sandbox/arrivals?channel=email&to=u1")
    assert [arrival["to"] for arrival in only["arrivals"]] == ["u1@example.com"]
    assert (page["oldest"], page["latest"]) == (1, 4)
    counts = await caller.get("/_sandbox/counts")
    assert counts["channels"]["email"] == {"taken": 3, "refused": 0}
    assert counts["vendors"]["twilio"] == {"taken": 1, "refused": 0}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/_sandbox/arrivals?since=-1", 422),
        ("GET", "/_sandbox/arrivals?limit=x", 422),
        ("GET", "/_sandbox/mail/1", 404),
        ("GET", "/_sandbox/mail/../../etc/passwd", 404),
        ("GET", "/_sandbox/nothing", 404),
        ("GET", "/v3/mail/send", 404),
        ("DELETE", "/_sandbox/faults/fault-9", 404),
        ("PUT", "/_sandbox/faults", 405),
        ("POST", "/_sandbox/nothing", 404),
    ],
)
async def test_unknown_routes_and_bad_values_are_refused(
    http: Client, sandbox: Handle, method: str, path: str, status: int
) -> None:
    answer = await http.request(method, f"{sandbox.url}{path}").build().send()
    assert answer.status == status
    assert (await answer.json())["detail"]


@pytest.mark.parametrize(
    ("kind", "body", "status"),
    [
        ("text/plain", b'{"vendor": "fcm", "kind": "hang"}', 415),
        ("application/json", b"{", 422),
        ("application/json", b'{"vendor": "nobody", "kind": "hang"}', 422),
        ("application/json", b'{"vendor": "fcm", "kind": "hang", "extra": 1}', 422),
        ("application/json", b'{"vendor": "fcm", "kind": "bounce"}', 422),
        ("application/json", b"\xff", 422),
        ("application/json; charset=utf-8", b'{"vendor": "fcm", "kind": "hang"}', 201),
    ],
)
async def test_faults_are_checked(http: Client, sandbox: Handle, kind: str, body: bytes, status: int) -> None:
    request = http.post(f"{sandbox.url}/_sandbox/faults").header("content-type", kind)
    assert (await request.body_bytes(body).build().send()).status == status
    assert len(sandbox.sandbox.faults.all()) == (status == 201)


async def test_the_mail_page_is_locked_up(http: Client, caller: Caller) -> None:
    await caller.email("ana@example.com", "Hello", "", "<script>1</script>")
    answer = await http.get(f"{caller.url}/_sandbox/mail/1").build().send()
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "allow-scripts" not in policy
    assert "allow-forms" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    page = await http.get(f"{caller.url}/").build().send()
    assert "script-src 'self'" in page.headers["content-security-policy"]


async def test_receipts_are_sent_again_until_they_are_taken(caller: Caller, listener: Listener) -> None:
    listener.answers = [503, 500]
    await caller.email("silent@example.com", "Hello", "Hello", "", marks={"tidings_delivery": "dlv_1"})
    await eventually(lambda: len(listener.posted) == 3)
    assert len({post.body for post in listener.posted}) == 1
    counts = await eventually(lambda: _posted(caller))
    assert (counts["posted"], counts["retried"]) == (1, 2)


async def _posted(caller: Caller) -> dict[str, int]:
    counts: dict[str, int] = (await caller.get("/_sandbox/counts"))["receipts"]
    return counts if counts.get("posted") else {}


async def test_receipts_may_be_lost_or_doubled(caller: Caller, sandbox: Handle, listener: Listener) -> None:
    url = f"{listener.url}/status"
    await caller.fault(vendor="twilio", kind="receipt_lost", recipient="+34600000001")
    await caller.fault(vendor="twilio", kind="receipt_twice", recipient="+34600000002")
    for number in (1, 2):
        await caller.sms(f"+3460000000{number}", "Hello", url)
    await eventually(lambda: len(listener.posted) == 4)
    await eventually(lambda: all(arrival.status == "delivered" for arrival in sandbox.sandbox.log.newest(2)))
    assert all(b"600000002" in post.body for post in listener.posted)


@pytest.mark.parametrize(
    ("to", "events"),
    [
        ("bounce@example.com", ["processed", "bounce"]),
        ("defer@example.com", ["processed", "deferred", "delivered"]),
        ("dropped@example.com", ["dropped"]),
        ("spam@example.com", ["processed", "delivered", "spamreport"]),
        ("click@example.com", ["processed", "delivered", "open", "click"]),
    ],
)
async def test_magic_email(caller: Caller, listener: Listener, to: str, events: list[str]) -> None:
    await caller.email(to, "Hello", "Hello", "")

    def heard() -> list[str]:
        return [event["event"] for post in listener.posted for event in json.loads(post.body)]

    await eventually(lambda: heard() == events)


async def test_in_app_items_are_mirrored_once(caller: Caller, sandbox: Handle) -> None:
    inbox = MemoryInbox()
    mirror = MirroredInbox(inbox, sandbox.url, "token")
    item = InboxItem(id=UUID(int=1), user_id="ana", title="Hello", body="there", created_at=1)
    await mirror.add("shop", [item])
    await mirror.add("shop", [item])
    assert await mirror.unread("shop", "ana") == 1
    await eventually(lambda: sandbox.sandbox.log.counts["inbox", "taken"] == 1)
    (arrival,) = sandbox.sandbox.log.newest(5)
    assert (arrival.to, arrival.delivery) == ("ana", to_text("dlv", item.id))
    await mirror.close()
    assert mirror.lost == 0


async def test_a_missing_sandbox_does_not_hurt_the_inbox() -> None:
    mirror = MirroredInbox(MemoryInbox(), "http://127.0.0.1:1", "token")
    await mirror.add("shop", [InboxItem(id=UUID(int=1), user_id="ana", title="Hello", body="there")])
    assert await mirror.unread("shop", "ana") == 1
    await eventually(lambda: mirror.lost == 1)
    await mirror.close()


async def test_a_taken_port_is_refused_in_plain_words(sandbox: Handle, credentials: Credentials) -> None:
    with pytest.raises(SettingsError, match=r"sandbox\.port"):
        await serve("127.0.0.1", sandbox.port, 0, credentials)
    with pytest.raises(SettingsError, match=r"sandbox\.smtp_port"):
        await serve("127.0.0.1", 0, sandbox.smtp_port, credentials)


async def test_stopping_lets_go_of_viewers_and_ports(credentials: Credentials) -> None:
    handle = await serve("127.0.0.1", 0, 0, credentials)
    reader, writer = await asyncio.open_connection("127.0.0.1", handle.port)
    writer.write(b"GET /_sandbox/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await reader.readuntil(b"event: hello")
    await handle.stop()
    await reader.read()
    writer.close()
    again = await serve("127.0.0.1", handle.port, handle.smtp_port, credentials)
    assert (again.port, again.smtp_port) == (handle.port, handle.smtp_port)
    await again.stop()


async def test_the_event_stream_continues_where_it_ended(caller: Caller, sandbox: Handle) -> None:
    async def frames(last: str, until: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", sandbox.port)
        header = f"Last-Event-ID: {last}\r\n" if last else ""
        writer.write(f"GET /_sandbox/events HTTP/1.1\r\nHost: localhost\r\n{header}\r\n".encode())
        read = await reader.readuntil(until)
        writer.close()
        return read

    await caller.sms("+34600000001", "first")
    read = await frames("", b"event: counts")
    last = read.split(b"id: ")[1].split(b"\n")[0].decode()
    await caller.sms("+34600000001", "second")
    read = await frames(last, b"event: counts")
    assert b"hello" not in read
    assert b"second" in read
    assert b"first" not in read
    read = await frames("other-1", b"event: counts")
    assert b"event: hello" in read
    assert b"first" in read
