"""Recurrences in a `Flow`: created and changed as the API does it, in the days before a clock change in Berlin."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from support.flow import SMS, TENANT, Flow
from tidings.model.history import HistoryFilter
from tidings.model.recurrence import Recurrence
from tidings.model.vocabulary import Channel
from tidings.pipeline.compose.composer import Composer
from tidings.report.notifications import NotificationView, Reports
from tidings.services.recurrences import Recurrences

REQUEST = {"to": {"user_id": "ada"}, "content": SMS}
DAILY = {"rrule": "FREQ=DAILY", "start": "2026-03-27T09:00", "timezone": "Europe/Berlin", "request": REQUEST}
HOUR = 3600


def utc(text: str) -> int:
    """The instant of a time in UTC (milliseconds since the epoch)."""
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


async def advance_to(flow: Flow, text: str) -> None:
    """Advance the clock to a time in UTC, stopping whenever an occurrence is due."""
    until = utc(text)
    while (due := await flow.store.recurrences.next_due()) is not None and due < until:
        await flow.advance(max(0.0, due - flow.clock.now()) / 1000)
        if flow.clock.now() >= until:
            break
    await flow.advance((until - flow.clock.now()) / 1000)


async def start(flow: Flow, timezone: str | None = "Europe/Berlin") -> None:
    """Go to the day before the first occurrence of `DAILY`, and store its user."""
    await advance_to(flow, "2026-03-26T12:00")
    await flow.user(timezone=timezone)


def service(flow: Flow) -> Recurrences:
    """The service that the API calls."""
    bits = random.Random(7).getrandbits
    return Recurrences(flow.store.recurrences, flow.store.users, Composer(flow.renderer, bits), flow.clock, bits)


async def create(flow: Flow, **more: Any) -> Recurrence:
    """Create a recurrence like `DAILY`, but for the fields in `more`."""
    return await service(flow).create(TENANT, json.dumps(DAILY | more).encode())


async def create_many(flow: Flow, count: int) -> list[Recurrence]:
    """Create equal recurrences."""
    recurrences = service(flow)
    return [await recurrences.create(TENANT, json.dumps(DAILY).encode()) for _ in range(count)]


async def change(flow: Flow, recurrence: Recurrence, **body: Any) -> Recurrence:
    """Change these fields of the recurrence."""
    return await service(flow).change(TENANT, recurrence.id, json.dumps(body).encode())


async def counted(flow: Flow) -> int:
    """How many notifications the accounts have counted."""
    await flow.accepted.write()
    return sum(minute.count for minute in await flow.store.accounts.accepted(0, 1 << 40))


async def history(flow: Flow) -> Sequence[NotificationView]:
    """Every notification, newest first."""
    reports = Reports(flow.store.history, flow.store.days, flow.store.schedule, flow.clock)
    page, _ = await reports.list(TENANT, HistoryFilter(), None, 100)
    return page


def sent(flow: Flow) -> int:
    """How many SMS were sent."""
    return len(flow.provider(Channel.SMS).sent)
