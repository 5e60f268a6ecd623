"""The services that the API calls. roles/api.py builds them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol
from uuid import UUID

from msgspec import Struct

from tidings.api.limits import Limiter
from tidings.api.vitals import Vitals
from tidings.model.errors import Invalid
from tidings.model.history import HistoryFilter
from tidings.model.sending import InboundRequest
from tidings.ports.cancellations import Cancellations
from tidings.ports.clock import Clock
from tidings.ports.inbox import Inbox
from tidings.ports.tenants import Tenants
from tidings.ports.users import Users
from tidings.report.accounting import AccountView
from tidings.report.notifications import NotificationView
from tidings.services.change import ChangeRequest
from tidings.services.letters import DeadLetters
from tidings.services.recurrences import Recurrences
from tidings.templating.templates import Templates


class Answered(Protocol):
    """The results of a request's items."""

    @property
    def results(self) -> Sequence[UUID | Invalid]:
        """For each item, in order: its id, or why it was refused."""
        ...

    @property
    def replayed(self) -> bool:
        """Whether this is the answer to an earlier request with the same idempotency key."""
        ...


class Accepts(Protocol):
    """The first stage (`tidings.pipeline.accept.stage.Accept`)."""

    async def accept(self, tenant: str, body: bytes, idempotency_key: str | None) -> Answered:
        """Accept one notification. Raises Invalid, Conflict, Unavailable."""
        ...

    async def accept_batch(
        self, tenant: str, body: bytes, idempotency_key: str | None, admit: Callable[[int], Awaitable[None]]
    ) -> Answered:
        """Accept a batch. `admit` is called with the number of its items first, except for a replayed answer.

        Raises:
            Invalid, Conflict, Unavailable: the whole batch is refused. Errors of `admit` are passed on.
        """
        ...

    async def receipts(self, provider: str, request: InboundRequest) -> int:
        """Accept a vendor's receipts; how many. Raises NotFound, BadReceipt, Unavailable."""
        ...


class Reads(Protocol):
    """Reads notifications back (`tidings.report.notifications.Reports`)."""

    async def get(self, tenant: str, id: UUID) -> NotificationView:
        """One notification. Raises NotFound."""
        ...

    async def list(
        self, tenant: str, filter: HistoryFilter, cursor: str | None, limit: int
    ) -> tuple[Sequence[NotificationView], str | None]:
        """A page, newest first, and the cursor of the next one (None: this is the last)."""
        ...


class Accounts(Protocol):
    """Draws up accounts (`tidings.report.accounting.Accounting`)."""

    async def account(self, tenant: str, since: int | None, until: int | None) -> AccountView:
        """How much was accepted between two instants, and in which states it is. Raises Invalid."""
        ...


Changes = Callable[[str, UUID, ChangeRequest], Awaitable[None]]
"""Changes a tenant's notification that waits (`tidings.services.change.Change`).

Raises Invalid, Conflict, Unavailable.
"""


class Limits(Struct, frozen=True):
    """The size limits of requests and pages.

    `max_batch_bytes` bounds the body of a batch of notifications, `max_body_bytes` every other body, and
    `max_bodies_bytes` all bodies together that are being read in parts. `max_items` is the number of users in one
    batch. `page` is the default number of items on a page, `max_page` the maximum.
    """

    max_body_bytes: int = 1_048_576
    max_batch_bytes: int = 8_388_608
    max_bodies_bytes: int = 268_435_456
    max_items: int = 1_000
    page: int = 50
    max_page: int = 200


def _no_count(result: str, count: int) -> None:
    """Counts nothing, for an app whose metrics nobody reads."""


def _never_stopping() -> bool:
    return False


@dataclass(frozen=True)
class Operating:
    """What the operations (/healthz, /readyz, /metrics) of a process ask.

    - `readiness`: gives each part that must work, with `ok` or its fault.
    - `metrics`: gives the page for Prometheus and its content type.
    - `stopping`: whether the process was told to end.
    - `roles`: what the process runs, in the words of `tidings run --role`.
    """

    readiness: Callable[[], Awaitable[Mapping[str, str]]]
    metrics: Callable[[], tuple[bytes, str]]
    stopping: Callable[[], bool] = _never_stopping
    roles: tuple[str, ...] = ()


@dataclass(frozen=True)
class Services:
    """Everything that the app calls.

    - `vitals`: knows whether the store answers.
    - `accepted`: counts notifications by result: `accepted`, `refused`, `unavailable`.
    - `public_url`: the base URL that vendors sign and that the documentation shows.
    - `operations`: the app answers /healthz, /readyz and /metrics.
    - `docs`: the app serves the API reference.
    """

    accept: Accepts
    reports: Reads
    accounting: Accounts
    users: Users
    templates: Templates
    inbox: Inbox
    tenants: Tenants
    cancellations: Cancellations
    letters: DeadLetters
    change: Changes
    recurrences: Recurrences
    clock: Clock
    vitals: Vitals
    operating: Operating
    limiter: Limiter
    public_url: str = "http://127.0.0.1:8400"
    limits: Limits = field(default=Limits())
    accepted: Callable[[str, int], None] = _no_count
    operations: bool = True
    docs: bool = True
