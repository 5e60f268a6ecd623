"""A provider: a vendor or protocol that serves a channel. One file in channels/<channel>/ is one provider.

Promises, checked for every file by tests/conformance/test_providers*.py: `send` returns a result for each delivery, in
order, and never raises for a fault of the vendor or the network; a timeout after the body went out is `Uncertain`;
`receipts` raises BadReceipt for a request that the vendor did not sign.
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
    """The fields of the Receipt for one kind of event that a vendor reports later. `detail` explains it to people."""

    state: State
    kind: str
    reason: str = ""
    suppress: bool = False
    detail: str = ""


class Provider(ABC, Generic[D]):
    """One way to send on one channel: one account at a vendor, or one server.

    - `kind`: the vendor's or protocol's name.
    - `name`: the account's name in the settings, unique.
    - `ERRORS`: the vendor's error codes and what follows from each, in an answer as in a receipt.
    - `EVENTS`: the events that the vendor reports later, by the vendor's name for them.
    - `ERRORS_PAGE`: the vendor's page that explains the error codes.
    - `batch_size`: the most deliveries that one `send` may get.
    - `concurrency`: the most `send`s that may run at once.
    - `parallel`: the most requests that one `send` makes at once.
    - `one_by_one`: True if one `send` makes its requests in turn, so that several `send`s are faster than one.
    - `rate`: the deliveries a second that the vendor grants the account (None: no limit).
    - `idempotent`: True if the vendor drops a repeated idempotency key.
    - `timeout_s`: the most seconds that one `send` may take.
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
    one_by_one: bool = False
    rate: float | None = None
    idempotent: bool = False
    timeout_s: float = 10.0

    @property
    def section(self) -> str:
        """The section of the settings that configures this account: `providers.<name>`."""
        return f"providers.{self.name}"

    @abstractmethod
    async def send(self, batch: Sequence[D]) -> Sequence[SendResult]:
        """Make one attempt for each delivery. Returns a result for each, in order."""

    def receipts(self, request: InboundRequest) -> list[Receipt]:
        """The receipts in the vendor's request. Raises BadReceipt if the vendor did not sign it."""
        raise BadReceipt(f"{self.name} sends no receipts")

    def receipts_with_unnamed(self, request: InboundRequest) -> list[Receipt]:
        """As `receipts`, with the receipts that name no delivery but only a vendor's reference or an address.

        The `delivery_id` of those is NAMELESS. Raises BadReceipt.
        """
        return self.receipts(request)

    async def check(self) -> str:
        """A sentence that says that the credentials work. Raises SettingsError if they do not, with the reason."""
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
