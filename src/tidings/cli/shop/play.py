"""Plays a day of the shop through the HTTP API, and keeps its own books on it."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from msgspec import Struct
from pyreqwest.client import Client, ClientBuilder
from pyreqwest.exceptions import PyreqwestError

from tidings.cli.plain import CannotGoOn
from tidings.cli.shop.day import MINUTES, Event
from tidings.cli.shop.people import Person
from tidings.cli.times import moment
from tidings.model.vocabulary import Reason, State
from tidings.policy.transitions import IN_FLIGHT

_AT_ONCE = 32
_BATCH = 1_000
_TRY_FOR_S = 60.0
_BUSY = frozenset({409, 429, 502, 503})
_TIMEOUT = timedelta(seconds=30)
_SAMPLE = 1_500
_LOOK_EVERY_S = 1.0
_STILL = 5
"""After so many looks without a change, the waiting deliveries are asked for their due times."""
_SOON_S = 20.0
"""The demo waits for deliveries that are due within this time."""
_PAGE = 200
_UNROUTED = frozenset({State.PENDING, State.SENDING})


class Wait(Struct, frozen=True):
    """Deliveries that wait for the same reason: how many, and when the first and the last of them are due."""

    reason: str
    count: int
    first: datetime
    last: datetime


class Rest(Struct, frozen=True):
    """The state at the end: the tally of the accounts, and the waits for a known time."""

    tally: Sequence[Mapping[str, Any]]
    waits: Sequence[Wait] = ()


@dataclass
class Books:
    """The shop's own records: what was accepted and refused, and how long the API took, in seconds."""

    accepted: Counter[str] = field(default_factory=Counter)
    refused: list[str] = field(default_factory=list)
    retried: int = 0
    single: list[float] = field(default_factory=list)
    batch: list[float] = field(default_factory=list)
    ids: list[tuple[str, str]] = field(default_factory=list)
    """The id and the priority of each accepted notification."""


class Shop:
    """The shop as a client of the API at `url`; `run` names this run in its idempotency keys."""

    def __init__(self, client: Client, url: str, run: str) -> None:
        self._client = client
        self._url = url
        self._run = run
        self.books = Books()

    async def welcome(self, people: Sequence[Person]) -> None:
        """Store people. Raises CannotGoOn if one of them is refused."""
        body = {"users": [person.body for person in people]}
        answer = await self._call("POST", "/v1/users/batch", body)
        refused = [item["error"] for item in answer["results"] if "error" in item]
        if refused:
            raise CannotGoOn(f"the API refused {len(refused)} people; the first: {refused[0]['detail']}", 1)

    async def play(self, events: Sequence[Event], seconds: float, passed: Callable[[int, int], None]) -> None:
        """Send the events of a day within about `seconds`, or longer if the API is slower.

        `passed` is called after each minute of the day, with the minute and the number of notifications sent in it.
        """
        began = time.monotonic()
        position = 0
        for minute in range(MINUTES):
            ahead_s = began + seconds * minute / MINUTES - time.monotonic()
            if ahead_s > 0:
                await asyncio.sleep(ahead_s)
            first = position
            while position < len(events) and events[position].minute <= minute:
                position += 1
            await self._send(events[first:position], first)
            passed(minute + 1, position - first)

    async def rest(self, waiting: Callable[[int], None], within_s: float) -> Rest:
        """Wait until all deliveries rest, or wait for a known time, for at most `within_s`; the state then.

        `waiting` is called with the number of deliveries and notifications that are still under way.
        """
        deadline = time.monotonic() + within_s
        before: list[dict[str, Any]] | None = None
        looks = 0
        while True:
            tally: list[dict[str, Any]] = (await self._call("GET", "/v1/accounting"))["tally"]
            moving = _moving(tally, self.books.accepted.total())
            waiting(moving)
            # When all else is done, receipts still turn `sent` into `delivered`: two equal tallies are the end.
            if tally == before and (not moving or looks % _STILL == 0 or time.monotonic() > deadline):
                waits = await self._waits()
                waiting_for_time = sum(wait.count for wait in waits if wait.reason != Reason.QUIET_HOURS)
                soonest = min((wait.first for wait in waits if wait.reason != Reason.QUIET_HOURS), default=None)
                if not moving or (waiting_for_time >= moving and soonest is not None and _is_far(soonest)):
                    return Rest(tally, waits)
            if time.monotonic() > deadline:
                return Rest(tally, await self._waits())
            looks = looks + 1 if tally == before else 0
            before = tally
            await asyncio.sleep(_LOOK_EVERY_S)

    async def _waits(self) -> list[Wait]:
        """The deliveries that wait for a known time, by reason."""
        due_times: dict[str, list[datetime]] = defaultdict(list)
        cursor = ""
        while True:
            page = await self._call("GET", f"/v1/notifications?state=deferred&limit={_PAGE}{cursor}")
            for notification in page["notifications"]:
                for delivery in notification["deliveries"]:
                    if delivery["state"] == State.DEFERRED and delivery["next_at"]:
                        due_times[delivery["reason"]].append(moment(delivery["next_at"]))
            if not page["next"]:
                break
            cursor = f"&cursor={page['next']}"
        return [Wait(reason, len(times), min(times), max(times)) for reason, times in sorted(due_times.items())]

    async def sample(self, seed: int) -> list[tuple[str, dict[str, Any]]]:
        """A random sample of the accepted notifications, each with its priority."""
        chosen = random.Random(seed).sample(self.books.ids, min(_SAMPLE, len(self.books.ids)))  # noqa: S311
        gate = asyncio.Semaphore(_AT_ONCE)

        async def read(id: str, priority: str) -> tuple[str, dict[str, Any]]:
            async with gate:
                return priority, await self._call("GET", f"/v1/notifications/{id}")

        return await asyncio.gather(*(read(id, priority) for id, priority in chosen))

    async def _send(self, events: Sequence[Event], first: int) -> None:
        gate = asyncio.Semaphore(_AT_ONCE)
        singles = [(number, event) for number, event in enumerate(events, first) if not event.batched]
        together = [event for event in events if event.batched]

        async def single(number: int, event: Event) -> None:
            async with gate:
                await self._single(number, event)

        async with asyncio.TaskGroup() as group:
            for number, event in singles:
                group.create_task(single(number, event))
            for start in range(0, len(together), _BATCH):
                group.create_task(self._batch(f"{first}-{start}", together[start : start + _BATCH]))

    async def _single(self, number: int, event: Event) -> None:
        began = time.perf_counter()
        answer = await self._call("POST", "/v1/notifications", event.body, f"{self._run}-{number}")
        self.books.single.append(time.perf_counter() - began)
        self._accepted(event, answer["id"])

    async def _batch(self, name: str, events: Sequence[Event]) -> None:
        began = time.perf_counter()
        body = {"notifications": [event.body for event in events]}
        answer = await self._call("POST", "/v1/notifications/batch", body, f"{self._run}-batch-{name}")
        self.books.batch.append(time.perf_counter() - began)
        for event, result in zip(events, answer["results"], strict=True):
            if "error" in result:
                self.books.refused.append(result["error"]["detail"])
            else:
                self._accepted(event, result["id"])

    def _accepted(self, event: Event, id: str) -> None:
        self.books.accepted[event.body["template"]] += 1
        self.books.ids.append((id, event.body["priority"]))

    async def _call(self, method: str, path: str, body: Any = None, key: str | None = None) -> Any:
        """The decoded answer. A failing call is repeated for a while; all calls are idempotent."""
        deadline = time.monotonic() + _TRY_FOR_S
        wait_s = 0.1
        while True:
            request = self._client.request(method, self._url + path)
            if body is not None:
                request = request.header("content-type", "application/json").body_bytes(msgspec.json.encode(body))
            if key is not None:
                request = request.header("idempotency-key", key)
            try:
                response = await request.build().send()
                content = bytes(await response.bytes())
            except PyreqwestError as error:
                status, trouble = 0, str(error)
            else:
                status, trouble = response.status, content[:300].decode(errors="replace")
                if status < 400:
                    return msgspec.json.decode(content)
            if (status and status not in _BUSY) or time.monotonic() > deadline:
                raise CannotGoOn(f"{method} {path} did not work ({status or 'no answer'}): {trouble}", 1)
            self.books.retried += 1
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 2, 2.0)


def is_held(row: Mapping[str, Any]) -> bool:
    """Whether a row of the tally counts deliveries that wait for the end of quiet hours."""
    return row["channel"] is not None and bool(row["state"] == State.DEFERRED and row["reason"] == Reason.QUIET_HOURS)


def _is_far(when: datetime) -> bool:
    """Whether the demo should not wait until then."""
    return (when - datetime.now(UTC)).total_seconds() > _SOON_S


def _moving(tally: Sequence[dict[str, Any]], accepted: int) -> int:
    """How many deliveries and unrouted notifications are still under way; deliveries in quiet hours are not."""
    deliveries: int = sum(
        row["count"] for row in tally if row["channel"] is not None and row["state"] in IN_FLIGHT and not is_held(row)
    )
    recorded: int = sum(row["count"] for row in tally if row["channel"] is None)
    unrouted: int = sum(row["count"] for row in tally if row["channel"] is None and row["state"] in _UNROUTED)
    return max(deliveries, unrouted) + max(0, accepted - recorded)


@asynccontextmanager
async def shop(url: str, key: str, run: str) -> AsyncIterator[Shop]:
    """The shop, connected."""
    builder = ClientBuilder().timeout(_TIMEOUT).no_proxy().default_headers({"authorization": f"Bearer {key}"})
    async with builder.build() as client:
        yield Shop(client, url, run)
