"""The structs between `deliver` and a provider: rendered deliveries out, results back, receipts later."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import TypeAlias
from uuid import UUID

from msgspec import Struct

from tidings.model.notification import EmailContent, InappContent, PushContent, SmsContent
from tidings.model.vocabulary import Priority, State

RenderedContent: TypeAlias = EmailContent | SmsContent | PushContent | InappContent


class Outbound(Struct, frozen=True, gc=False):
    """A rendered delivery, as a provider gets it.

    `to` is the address's value. `idempotency_key` is the same for every try of one attempt. At `expires_at`
    (milliseconds since the epoch) the delivery is of no use any more; a provider tells its vendor how much time is
    left.
    """

    id: UUID
    tenant: str
    to: str
    idempotency_key: str
    attempt: int = 1
    user_id: str | None = None
    name: str | None = None
    locale: str | None = None
    category: str = ""
    expires_at: int | None = None
    priority: Priority = Priority.NORMAL


class EmailDelivery(Outbound, frozen=True, gc=False, kw_only=True):
    """An email to send."""

    content: EmailContent


class SmsDelivery(Outbound, frozen=True, gc=False, kw_only=True):
    """A text message to send."""

    content: SmsContent


class PushDelivery(Outbound, frozen=True, gc=False, kw_only=True):
    """A push notification to send."""

    content: PushContent


class InappDelivery(Outbound, frozen=True, gc=False, kw_only=True):
    """An item to put into an inbox."""

    content: InappContent


AnyDelivery: TypeAlias = EmailDelivery | SmsDelivery | PushDelivery | InappDelivery


class Sent(Struct, frozen=True, gc=False):
    """The provider took the delivery. `delivered`: it has thereby arrived (the inbox)."""

    reference: str = ""
    delivered: bool = False


class About(StrEnum):
    """Whom a provider's "not now" is about.

    `delivery`: this recipient or content; the try counts. `account`: everything that this account sends; all of it
    waits. `unoffered`: nothing was offered, for lack of a connection, a login or a working service.
    """

    DELIVERY = "delivery"
    ACCOUNT = "account"
    UNOFFERED = "unoffered"


class Retry(Struct, frozen=True, gc=False):
    """The provider did not take the delivery, and may take it later.

    `after_s` is the wait that the provider asked for, unclamped. `about` None: it follows from `reason`
    (policy/retry.py). `patient`: the provider puts this recipient off for minutes or hours, as mail servers do
    (greylisting, a full mailbox), so quick tries would be wasted.
    """

    reason: str
    after_s: float | None = None
    detail: str = ""
    about: About | None = None
    patient: bool = False


class Rejected(Struct, frozen=True, gc=False):
    """The provider refused the delivery for good.

    `suppress`: never use this address again. `fallback`: another provider may take the delivery.
    """

    reason: str
    suppress: bool = False
    fallback: bool = False
    detail: str = ""


class Uncertain(Struct, frozen=True, gc=False):
    """The provider may or may not have taken the delivery: the body went out, and no answer came."""

    reason: str
    detail: str = ""


SendResult: TypeAlias = Sent | Retry | Rejected | Uncertain


class InboundRequest(Struct, frozen=True, gc=False):
    """A vendor's HTTP request to Tidings, verbatim. `url` is public and with its query; header names are lower-case."""

    url: str
    headers: Mapping[str, str]
    query: Mapping[str, str]
    body: bytes


NAMELESS = UUID(int=0)
"""The delivery id of a receipt whose vendor names no delivery."""


class Handed(Struct, frozen=True, gc=False):
    """A recorded fact: an attempt of a delivery was handed to a provider, which may have given it a `reference`."""

    delivery_id: UUID
    tenant: str
    attempt: int
    reference: str
    address: str


class Receipt(Struct, frozen=True, gc=False):
    """What a provider says later about a delivery.

    `state` is one of sent, delivered, failed. `kind` is the vendor-neutral event (`delivered`, `opened`, `clicked`,
    `bounced`, …); `at` is in milliseconds since the epoch, 0 where the vendor does not say.
    """

    delivery_id: UUID
    tenant: str
    state: State
    kind: str
    attempt: int = 1
    at: int = 0
    reason: str = ""
    detail: str = ""
    reference: str = ""
    address: str | None = None
    suppress: bool = False
