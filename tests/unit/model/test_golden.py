"""Each version reads the bytes of earlier versions and they read its bytes, so rolling upgrades work both ways."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pytest
from msgspec import Struct

from support import wire as samples
from tidings.backends.kafka.progress import Progress
from tidings.backends.postgres.claims import _decode_headers
from tidings.model.notification import Content, Recipient
from tidings.model.vocabulary import Channel, Priority, State, Strategy
from tidings.model.wire import decode_delivery, decode_notification, decode_outcomes, encode
from tidings.pipeline.accept import stage as accept

WIRE = Path(__file__).resolve().parents[2] / "golden" / "wire"
VERSIONS = sorted(folder.name for folder in WIRE.iterdir() if (folder / "outcomes.bin").exists())


def golden(version: str, name: str) -> bytes:
    return (WIRE / version / f"{name}.bin").read_bytes()


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_there_are_files_of_every_kind() -> None:
    assert "0.1.0" in VERSIONS
    for each in VERSIONS:
        assert {file.stem for file in (WIRE / each).glob("*.bin")} == set(samples.WRITTEN)


def test_notifications_and_deliveries(version: str) -> None:
    assert decode_notification(golden(version, "notification-brief")) == samples.BRIEF
    assert decode_notification(golden(version, "notification-full")) == samples.FULL
    assert decode_delivery(golden(version, "delivery-plain")) == samples.PLAIN
    assert decode_delivery(golden(version, "delivery-tried")) == samples.TRIED


def test_outcomes_with_their_waits_and_notifications(version: str) -> None:
    read = decode_outcomes(golden(version, "outcomes"))
    waits = [fact.wait for fact in read if fact.wait is not None]
    # A waiting delivery is inside the fact as bytes, written by the same version.
    assert [decode_delivery(wait.body) for wait in waits] == [samples.TRIED]
    assert [_without_body(fact) for fact in read] == [_without_body(fact) for fact in samples.FACTS]


def test_answers_under_an_idempotency_key(version: str) -> None:
    read = accept._read_answer(golden(version, "idempotency-answer"))
    assert [_told(result) for result in read] == [_told(result) for result in samples.ANSWER.results]


def test_the_headers_of_an_item(version: str) -> None:
    assert _decode_headers(golden(version, "queue-headers")) == samples.HEADERS


def test_how_far_a_group_has_come_in_kafka(version: str) -> None:
    base, _, text = golden(version, "kafka-offset").decode().partition(" ")
    progress = Progress(int(base), text)
    arrives = {offset: progress.arrives(offset) for offset in range(1001, 1020)}
    assert [offset for offset, comes in arrives.items() if not comes] == [1010, 1011, 1012]
    assert [offset for offset in arrives if progress.marked(offset)] == list(range(1002, 1008))


READ_SINCE: frozenset[str] = frozenset()
"""Words of `Channel`, `Priority`, `Strategy` and `State` that 0.1.0 cannot read, and that nothing writes for it."""

# --- and back: what 0.1.0 knew, word for word ---


class OldChannel(Enum):
    EMAIL = "email"
    SMS = "sms"
    PUSH = "push"
    INAPP = "inapp"


class OldPriority(Enum):
    CRITICAL = "critical"
    NORMAL = "normal"
    BULK = "bulk"


class OldStrategy(Enum):
    ALL = "all"
    FIRST_REACHABLE = "first_reachable"


class OldState(Enum):
    PENDING = "pending"
    DEFERRED = "deferred"
    SENDING = "sending"
    UNCERTAIN = "uncertain"
    SENT = "sent"
    DELIVERED = "delivered"
    SUPPRESSED = "suppressed"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    FAILED = "failed"
    DEAD = "dead"


class OldAddress(Struct, array_like=True):
    channel: OldChannel
    value: str


class OldTemplateRef(Struct, array_like=True):
    name: str
    version: int


class OldNotification(Struct, array_like=True):
    id: UUID
    tenant: str
    to: Recipient
    accepted_at: int
    template: OldTemplateRef | None = None
    content: Content | None = None
    data: bytes = b"{}"
    channels: tuple[OldChannel, ...] = ()
    strategy: OldStrategy = OldStrategy.ALL
    category: str = "transactional"
    priority: OldPriority = OldPriority.NORMAL
    send_at: int | None = None
    expires_at: int | None = None
    metadata: bytes = b"{}"


class OldDelivery(Struct, array_like=True):
    id: UUID
    tenant: str
    user_id: str | None
    key: str
    address: OldAddress
    category: str
    priority: OldPriority
    template: OldTemplateRef | None = None
    content: Content | None = None
    data: bytes = b"{}"
    locale: str | None = None
    timezone: str | None = None
    name: str | None = None
    attempt: int = 1
    step: int = 0
    expires_at: int | None = None
    alternatives: tuple[tuple[int, OldAddress], ...] = ()
    tried: tuple[str, ...] = ()


class OldWait(Struct, array_like=True):
    due: int
    topic: str
    key: str
    body: bytes


class OldOutcome(Struct, array_like=True):
    id: UUID
    tenant: str
    at: int
    state: OldState
    attempt: int = 0
    step: int = 0
    reason: str = ""
    provider: str = ""
    reference: str = ""
    detail: str = ""
    address: OldAddress | None = None
    notification: OldNotification | None = None
    wait: OldWait | None = None
    suppress: bool = False


@pytest.mark.parametrize(
    ("name", "old"),
    [
        ("notification-brief", OldNotification),
        ("notification-full", OldNotification),
        ("delivery-plain", OldDelivery),
        ("delivery-tried", OldDelivery),
        ("outcomes", list[OldOutcome]),
    ],
)
def test_the_old_reader_reads_its_own_fields_in_new_bytes(name: str, old: Any) -> None:
    reads = msgspec.msgpack.Decoder(old)
    then, now = golden("0.1.0", name), samples.WRITTEN[name]()
    assert then[:1] == now[:1] == b"\x01"
    assert _bare(reads.decode(now[1:])) == _bare(reads.decode(then[1:]))


@pytest.mark.parametrize(
    ("old", "new"), [(OldChannel, Channel), (OldPriority, Priority), (OldStrategy, Strategy), (OldState, State)]
)
def test_every_written_word_is_known_to_the_old_reader(old: type[Enum], new: type[Enum]) -> None:
    """An old reader puts aside what it cannot read, so a version may write only words that its predecessor reads."""
    assert {word.value for word in new} <= {word.value for word in old} | READ_SINCE


def test_the_old_reader_reads_new_fields_that_are_set() -> None:
    """The old reader ignores new fields although they are set."""
    delivery = msgspec.structs.replace(samples.TRIED, first_attempt=3, pinned="second")
    read = msgspec.msgpack.decode(encode(delivery)[1:], type=OldDelivery)
    assert (read.attempt, read.tried) == (3, ("first", "second"))
    notification = msgspec.structs.replace(samples.FULL, send_at_local="09:00")
    assert msgspec.msgpack.decode(encode(notification)[1:], type=OldNotification).metadata == b'{"campaign":7}'


def _without_body(fact: Any) -> Any:
    return (
        fact if fact.wait is None else msgspec.structs.replace(fact, wait=msgspec.structs.replace(fact.wait, body=b""))
    )


def _bare(read: Any) -> Any:
    """The value without the bytes of waiting deliveries, which have a reader of their own."""
    return [_without_body(fact) for fact in read] if isinstance(read, Sequence) else read


def _told(result: Any) -> Any:
    return result if isinstance(result, UUID) else (result.code, result.detail, result.path)
