"""A provider: a vendor or protocol that serves a channel. One file in channels/<channel>/ is one provider.

Promises, checked over every file by tests/conformance/test_providers.py: `send` answers each delivery in order and
never raises for a vendor's or the network's fault; a timeout after the body went out is `Uncertain`; `receipts` raises
BadReceipt for a request that the vendor did not sign.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, Generic, TypeVar

from msgspec import Struct

from tidings.model.errors import BadReceipt
from tidings.model.sending import (
    AnyDelivery,
    EmailDelivery,
    InappDelivery,
    InboundRequest,
    PushDelivery,
    Receipt,
    Rejected,
    Retry,
    SendResult,
    SmsDelivery,
)
from tidings.model.vocabulary import Channel, State

D = TypeVar("D", bound=AnyDelivery)


class Event(Struct, frozen=True):
    """What follows when a vendor reports an event about something that it took: these fields of the Receipt.

    `detail` says what the event means, for people.
    """

    state: State
    kind: str
    reason: str = ""
    suppress: bool = False
    detail: str = ""


class Provider(ABC, Generic[D]):
    """One way to send on one channel: one account at a vendor, or one server.

    `kind` is the vendor's or protocol's name; `name` is what the settings call this account, and no two have the same.
    `batch_size` is how many deliveries one `send` may get; `concurrency` how many `send`s may run at once; `parallel`
    how many requests one `send` makes at once at most; `rate` how many deliveries a second the vendor grants the
    account (None: no limit); `idempotent` whether the vendor drops a repeated idempotency key; `timeout` (seconds)
    bounds one `send`. `ERRORS` is the vendor's error table, its own code to what follows from it, in an answer as in a
    receipt; `EVENTS` is what it reports later, by the vendor's name; `ERRORS_PAGE` is where the vendor says what they
    mean.
    """

    kind: ClassVar[str]
    name: str
    channel: ClassVar[Channel]
    delivery: ClassVar[type[AnyDelivery]]
    ERRORS: ClassVar[Mapping[int | str, Retry | Rejected]] = {}
    EVENTS: ClassVar[Mapping[str, Event]] = {}
    ERRORS_PAGE: ClassVar[str] = ""
    batch_size: int = 1
    concurrency: int = 64
    parallel: int = 1
    rate: float | None = None
    idempotent: bool = False
    timeout: float = 10.0

    @property
    def section(self) -> str:
        """Where the settings of this account stand: `providers.<name>`."""
        return f"providers.{self.name}"

    @abstractmethod
    async def send(self, batch: Sequence[D]) -> Sequence[SendResult]:
        """Try to send each once; a result for each, in order."""

    def receipts(self, request: InboundRequest) -> list[Receipt]:
        """What the vendor's request says about deliveries. Raises BadReceipt when it is not signed by the vendor."""
        raise BadReceipt(f"{self.name} sends no receipts")

    def told(self, request: InboundRequest) -> list[Receipt]:
        """As `receipts`; with those that name a delivery by the vendor's reference or by its address alone.

        Their `delivery_id` is NAMELESS. Raises BadReceipt.
        """
        return self.receipts(request)

    async def check(self) -> str:
        """Whether the credentials work, as a sentence. Raises SettingsError saying what is wrong with them."""
        return "nothing to check"

    async def close(self) -> None:
        """Free connections."""
        return


class EmailProvider(Provider[EmailDelivery]):
    """A provider of the channel email."""

    channel = Channel.EMAIL
    delivery = EmailDelivery


class SmsProvider(Provider[SmsDelivery]):
    """A provider of the channel sms."""

    channel = Channel.SMS
    delivery = SmsDelivery


class PushProvider(Provider[PushDelivery]):
    """A provider of the channel push."""

    channel = Channel.PUSH
    delivery = PushDelivery


class InappProvider(Provider[InappDelivery]):
    """A provider of the channel inapp."""

    channel = Channel.INAPP
    delivery = InappDelivery
