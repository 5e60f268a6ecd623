"""The canary: a real notification, sent regularly, that must arrive. It tests all parts together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from uuid import UUID, uuid4

import msgspec
import structlog

from tidings.model.errors import Invalid
from tidings.model.history import NotificationRecord
from tidings.model.ids import NOTIFICATION_PREFIX, slot_of, to_text
from tidings.model.tenant import CANARY_TENANT, Tenant
from tidings.model.user import Profile
from tidings.model.vocabulary import State
from tidings.pipeline.accept.stage import Answer
from tidings.pipeline.rounds.rounds import ROUNDS_MISSED, leave, repeat
from tidings.ports.clock import Clock
from tidings.ports.meter import CanaryMeter
from tidings.ports.store import Directory, Shard

ROUND = "canary"
USER = "canary"
FIRST_LOOK_S, LONGEST_LOOK_S = 0.02, 0.25
"""First and longest pause between two looks whether it arrived. They grow, so that a slow canary costs little."""

_BODY = msgspec.json.encode(
    {
        "to": {"user_id": USER},
        "content": {"inapp": {"title": "Canary", "body": "Tidings sends this to itself."}},
        "category": "canary",
    }
)
_log = structlog.get_logger("tidings.canary")


class Canary:
    """Sends a canary every `every_s` seconds and reports whether it arrived within `deadline_s`.

    One process at a time does this for all.
    """

    def __init__(
        self,
        accept: Callable[[str, bytes], Awaitable[Answer]],
        directory: Directory,
        shard: Shard,
        clock: Clock,
        meter: CanaryMeter,
        every_s: float,
        deadline_s: float,
    ) -> None:
        self._accept = accept
        self._history = shard.history
        self._inbox = shard.inbox
        self._tenants = directory.tenants
        self._users = shard.users
        self._rounds = directory.rounds
        self._holder = uuid4()
        self._every_s = every_s
        self._deadline_s = deadline_s
        self._clock = clock
        self._meter = meter
        self._known = False

    async def once(self) -> bool:
        """Send a canary and wait for it; False if another process makes the rounds. Raises Unavailable."""
        began = self._clock.now()
        if await self._rounds.begin(ROUND, self._holder, ROUNDS_MISSED * self._every_s + self._deadline_s) is None:
            return False
        try:
            await self._introduce()
            id = await self._send()
        except Exception:
            self._meter.canary_failed()
            raise
        record, wait = None, FIRST_LOOK_S
        while not _has_arrived(record):
            if self._clock.now() - began >= self._deadline_s * 1000:
                self._missed(id, record)
                return True
            await self._clock.sleep(wait)
            wait = min(wait * 1.5, LONGEST_LOOK_S)
            record = await self._history.get(CANARY_TENANT, id)
        now = self._clock.now()
        self._meter.canary((now - began) / 1000, now)
        await self._inbox.remove(CANARY_TENANT, USER, now + 1)
        return True

    async def run(self, stopping: asyncio.Event) -> None:
        """Make rounds until `stopping` is set, then leave them to other processes."""
        await repeat(ROUND, self.once, self._every_s, stopping, self._clock, self._meter)
        await leave(self._rounds, ROUND, self._holder)

    async def _send(self) -> UUID:
        (id,) = (await self._accept(CANARY_TENANT, _BODY)).results
        if isinstance(id, Invalid):
            raise id
        return id

    async def _introduce(self) -> None:
        """Create the canary's tenant and user, the first time."""
        if not self._known:
            now = self._clock.now()
            await self._tenants.add(Tenant(CANARY_TENANT, "Canary: Tidings watches itself", now))
            await self._users.upsert(CANARY_TENANT, [(USER, Profile(), None)], now)
            self._known = True

    def _missed(self, id: UUID, record: NotificationRecord | None) -> None:
        self._meter.canary_failed()
        if record is None:
            reached, look_at = (
                "accepted",
                "is a worker running? the queues requests.normal and outcomes, stages route and record",
            )
        else:
            last = record.events[-1]
            reached = f"{last.state.value} {last.reason}".strip()
            look_at = "the queues deliveries.inapp.normal and outcomes, stages deliver and record"
            if last.state is not State.PENDING:
                look_at = f"`tidings status`, and why it is {last.state.value}"
        _log.error(
            "the canary did not arrive in time",
            id=to_text(NOTIFICATION_PREFIX, id),
            waited=self._deadline_s,
            reached=reached,
            look_at=look_at,
        )


def _has_arrived(record: NotificationRecord | None) -> bool:
    return record is not None and any(event.state is State.DELIVERED and slot_of(event.id) for event in record.events)
