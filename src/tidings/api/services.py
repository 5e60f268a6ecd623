"""What the API needs from the rest of the house. Wiring builds it."""

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
from tidings.pipeline.changes.change import ChangeRequest
from tidings.pipeline.changes.letters import DeadLetters
from tidings.pipeline.changes.recurrences import Recurrences
from tidings.ports.clock import Clock
from tidings.ports.store import Cancellations, Inbox, Tenants, Users
from tidings.report.accounting import AccountView
from tidings.report.notifications import NotificationView
from tidings.templating.templates import Templates


class Answered(Protocol):
    """What became of each item of a request, in order."""

    @property
    def results(self) -> Sequence[UUID | Invalid]:
        """The id of each accepted item, or why it was not."""
        ...

    @property
    def replayed(self) -> bool:
        """Whether this is the answer to an earlier request with the same idempotency key."""
        ...


class Accepts(Protocol):
    """The first stage (`tidings.pipeline.accept.stage.Accept`)."""

    async def accept(self, tenant: str, body: bytes, idempotency_key: str | None) -> Answered:
        """Take one request. Raises Invalid, Conflict, Unavailable."""
        ...

    async def accept_batch(
        self, tenant: str, body: bytes, idempotency_key: str | None, admit: Callable[[int], Awaitable[None]]
    ) -> Answered:
        """Take a batch. Raises Invalid, Conflict, Unavailable for what spoils all of it, and what `admit` does."""
        ...

    async def receipts(self, provider: str, request: InboundRequest) -> int:
        """Take a vendor's receipts. Raises NotFound, BadReceipt, Unavailable."""
        ...


class Reads(Protocol):
    """Reading back (`tidings.report.notifications.Reports`)."""

    async def get(self, tenant: str, id: UUID) -> NotificationView:
        """One notification. Raises NotFound."""
        ...

    async def list(
        self, tenant: str, filter: HistoryFilter, cursor: str | None, limit: int
    ) -> tuple[Sequence[NotificationView], str | None]:
        """A page, newest first, and the cursor of the next one."""
        ...


class Accounts(Protocol):
    """The accounts (`tidings.report.accounting.Accounting`)."""

    async def account(self, tenant: str, since: int | None, until: int | None) -> AccountView:
        """What was accepted between two instants, and where it is. Raises Invalid."""
        ...


Changes = Callable[[str, UUID, ChangeRequest], Awaitable[None]]
"""Changes a tenant's waiting notification (`tidings.pipeline.changes.change.Change`).

Raises Invalid, Conflict, Unavailable.
"""


class Limits(Struct, frozen=True):
    """How much a request may ask for.

    `max_body_bytes` bounds every body but the batch's, `max_batch_bytes` that one, `max_bodies_bytes` all that are
    being read in parts at once. `max_items` is how many users one batch may hold, `page` and `max_page` how many items
    a listing gives when nothing is said, and at most.
    """

    max_body_bytes: int = 1_048_576
    max_batch_bytes: int = 8_388_608
    max_bodies_bytes: int = 268_435_456
    max_items: int = 1_000
    page: int = 50
    max_page: int = 200


def _uncounted(result: str, count: int) -> None:
    """Counts nothing: for an app whose metrics nobody reads."""


def _goes_on() -> bool:
    return False


@dataclass(frozen=True)
class Services:
    """Everything that the app calls.

    `vitals` knows whether the store answers. `readiness` names each part that is needed with `ok` or what is wrong with
    it, and `stopping` says whether the process was told to end. `metrics` gives the page for Prometheus and its content
    type; `accepted` counts what the API took (`accepted`) and turned away (`refused`, `unavailable`). `public_url` is
    the base URL that vendors sign and the documentation shows. `operations` and `docs`: the app answers /healthz,
    /readyz and /metrics, and serves the API reference.
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
    readiness: Callable[[], Awaitable[Mapping[str, str]]]
    metrics: Callable[[], tuple[bytes, str]]
    limiter: Limiter
    stopping: Callable[[], bool] = _goes_on
    public_url: str = "http://127.0.0.1:8400"
    limits: Limits = field(default=Limits())
    accepted: Callable[[str, int], None] = _uncounted
    operations: bool = True
    docs: bool = True
