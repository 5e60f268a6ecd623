"""The contents of the golden files, as values of the version that first wrote them (0.1.0)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

from tidings.backends.kafka.progress import Progress
from tidings.backends.postgres.writing import prepare
from tidings.model.delivery import Delivery
from tidings.model.errors import Invalid
from tidings.model.notification import (
    Content,
    EmailContent,
    InappContent,
    Notification,
    PushContent,
    Recipient,
    SmsContent,
    TemplateRef,
)
from tidings.model.outcome import Outcome, Wait
from tidings.model.user import Address
from tidings.model.vocabulary import Channel, Priority, State, Strategy
from tidings.model.wire import encode, encode_outcomes
from tidings.pipeline.accept import stage as accept
from tidings.ports.queue import Item

STATES = "pending deferred sending uncertain sent delivered suppressed expired cancelled failed dead"
NOW = 1_767_225_600_000
NOTIFICATION = UUID("019b76da-a800-7abc-8def-0123456789ab")
DELIVERY = UUID("019b76da-a800-7abc-8def-012345678901")
CONTENT = Content(
    email=EmailContent("Grüße", text="Hallo", html="<p>Hallo</p>"),
    sms=SmsContent("Hallo"),
    push=PushContent("Bestellung", "Unterwegs", "app://orders/1"),
    inapp=InappContent("Bestellung", "Unterwegs"),
)
HEADERS = {"repeated": "1", "trace": "00-ab-cd-01"}
ANSWER = accept.Answer((NOTIFICATION, Invalid("unknown_template", "no template 'x' is published", "$.template")))

BRIEF = Notification(
    NOTIFICATION, "shop", Recipient(email="ada@example.com"), NOW, content=Content(sms=SmsContent("x"))
)
FULL = Notification(
    id=NOTIFICATION,
    tenant="shop",
    to=Recipient("ada", "ada@example.com", "+4915123456789", ("one", "two"), "de-DE", "Europe/Berlin"),
    accepted_at=NOW,
    template=TemplateRef("order", 3),
    data='{"id":"A-1","naïve":true}'.encode(),
    channels=(Channel.EMAIL, Channel.SMS, Channel.PUSH, Channel.INAPP),
    strategy=Strategy.FIRST_REACHABLE,
    category="orders",
    priority=Priority.CRITICAL,
    send_at=NOW + 1,
    expires_at=NOW + 2,
    metadata=b'{"campaign":7}',
)
PLAIN = Delivery(
    DELIVERY, "shop", None, "shop/x", Address(Channel.SMS, "+49151"), "orders", Priority.NORMAL, content=CONTENT
)
TRIED = Delivery(
    id=DELIVERY,
    tenant="shop",
    user_id="ada",
    key="shop/ada",
    address=Address(Channel.EMAIL, "ada@example.com"),
    category="orders",
    priority=Priority.BULK,
    template=TemplateRef("order", 3),
    data=b'{"id":"A-1"}',
    locale="de-DE",
    timezone="Europe/Berlin",
    name="Ada",
    attempt=3,
    step=4,
    expires_at=NOW + 5,
    alternatives=((2, Address(Channel.PUSH, "one")), (3, Address(Channel.INAPP, "ada"))),
    tried=("first", "second"),
)
FACTS = [
    Outcome(NOTIFICATION, "shop", NOW, State.PENDING, notification=FULL),
    Outcome(
        id=DELIVERY,
        tenant="shop",
        at=NOW + 1,
        state=State.DEFERRED,
        attempt=2,
        step=1,
        reason="retry",
        provider="first",
        reference="ref-1",
        detail="503",
        address=Address(Channel.EMAIL, "ada@example.com"),
        wait=Wait(NOW + 2, "deliveries.email.normal", "shop/ada", encode(TRIED)),
    ),
    *(
        Outcome(DELIVERY, "shop", NOW, state, attempt=1, suppress=state == State.FAILED)
        for state in map(State, STATES.split())
    ),
]


def _progress() -> bytes:
    progress = Progress(1000)
    for offset in range(1000, 1020):
        progress.arrives(offset)
    progress.begin([(1002, 1008)])
    progress.finish([(1000, 1001), (1010, 1013)])
    return f"{progress.base} {progress.metadata()}".encode()


def _headers() -> bytes:
    """Headers as bytes, as in the column of a queue's table."""
    _keys, _bodies, headers = prepare([Item("t", "k", b"", HEADERS)], {"t": ("t/g",)}).arguments
    column: Any = headers
    return bytes(column[0])


WRITTEN: dict[str, Callable[[], bytes]] = {
    "notification-brief": lambda: encode(BRIEF),
    "notification-full": lambda: encode(FULL),
    "delivery-plain": lambda: encode(PLAIN),
    "delivery-tried": lambda: encode(TRIED),
    "outcomes": lambda: encode_outcomes(FACTS),
    "idempotency-answer": lambda: accept._write_answer(ANSWER),
    "queue-headers": _headers,
    "kafka-offset": _progress,
}
"""The bytes of each golden file by its name, as the imported version writes them."""
