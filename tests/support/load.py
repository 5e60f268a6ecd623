"""A client with traffic of every kind, and the ledger of its answers, which is one of the judge's three sources."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from pyreqwest.exceptions import PyreqwestError

from support import eventually, ticks
from support.system import Reply, System

BEAT = 0.1
"""Seconds between two beats of the load."""
SINGLES = 3
BATCH = 40
BURST = 200
EVERY_BATCH, EVERY_BURST, EVERY_OPT_OUT = 10, 40, 15
"""Beats."""
MOST_UNDER_WAY = 60
"""The most requests that the client has under way at once."""
GIVES_UP_AFTER = 120.0
"""Seconds that a client with an idempotency key retries: longer than the lease of a dead request."""
ANSWER_WITHIN = 10.0
USERS = 40

DOUBLES, NEWS = "alerts", "news"
"""Two categories: one allows doubles, the other is one that users opt out of."""
_CATEGORIES = ("transactional", "transactional", NEWS, DOUBLES)
_LANES = ("critical", "normal", "normal", "bulk")
_CONTENT: dict[str, Any] = {
    "push": {"title": "Order", "body": "On its way"},
    "sms": {"text": "On its way"},
    "email": {"subject": "Order", "text": "On its way"},
    "inapp": {"title": "Order", "body": "On its way"},
}


def now() -> int:
    """The machine's time, in milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


@dataclass
class Asked:
    """A notification that the client requested. Instants are milliseconds since the epoch.

    `accepted` is when it got 202 and the id; `cancelled` when its cancellation was confirmed.
    """

    number: int
    user: str | None
    category: str
    send_at: int | None = None
    keyed: bool = False
    id: str = ""
    accepted: int | None = None
    cancelled: int | None = None


@dataclass
class Ledger:
    """The client's requests and answers. `answers`: the instants of all 202s; `opted_out`: of confirmed opt-outs."""

    asked: list[Asked] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)
    opted_out: dict[str, int] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)

    @property
    def accepted(self) -> list[Asked]:
        """The accepted requests."""
        return [one for one in self.asked if one.accepted is not None]


class Load:
    """Sends until `stop`. The same seed makes the same requests, as long as the answers are the same."""

    def __init__(self, system: System, seed: int) -> None:
        self.ledger = Ledger()
        self._system = system
        self._dice = random.Random(seed)
        self._group = asyncio.TaskGroup()
        self._under_way = 0
        self._stopping = asyncio.Event()

    async def prepare(self) -> None:
        """Create the users and categories."""
        for number in range(USERS):
            await self._system.user(_user(number), **_addresses(90_000_000 + number))
        doubles = await self._system.call("PUT", f"/v1/categories/{DOUBLES}", {"allow_doubles": True})
        assert doubles.status < 300, doubles.body

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run the load during the context. At its end every request is answered or given up."""
        async with self._group:
            self._group.create_task(self._run())
            try:
                yield
            finally:
                self._stopping.set()

    async def _run(self) -> None:
        number = 0
        async with aclosing(ticks(BEAT)) as beats:
            async for _ in beats:
                if self._stopping.is_set():
                    return
                number += 1
                if self._under_way >= MOST_UNDER_WAY:
                    continue
                for _ in range(SINGLES):
                    self._begin(self._single())
                if number % EVERY_BATCH == 0:
                    self._begin(self._batch(f"batch-{number}", [self._draw() for _ in range(BATCH)]))
                if number % EVERY_BURST == 0:
                    burst = [self._draw("push", lane="bulk") for _ in range(BURST)]
                    self._begin(self._batch(f"burst-{number}", burst))
                if number % EVERY_OPT_OUT == 0 and len(self.ledger.opted_out) < USERS // 2:
                    self._begin(self._opt_out(_user(self._dice.randrange(USERS))))

    def _begin(self, work: Any) -> None:
        self._under_way += 1
        self._group.create_task(work).add_done_callback(self._ended)

    def _ended(self, _: object) -> None:
        self._under_way -= 1

    def _draw(self, channel: str = "", lane: str = "", *, expiring: bool = False) -> tuple[Asked, dict[str, Any]]:
        """A random request and its body."""
        dice, number = self._dice, len(self.ledger.asked)
        channel = channel or dice.choice(tuple(_CONTENT))
        user = _user(dice.randrange(USERS)) if channel == "inapp" or dice.random() < 0.4 else None
        channels = [channel]
        if channel == "push" and dice.random() < 0.2:
            channels.append("sms")
        asked = Asked(number, user, dice.choice(_CATEGORIES))
        body: dict[str, Any] = {
            "to": {"user_id": user} if user else _addresses(number),
            "channels": channels,
            "content": {name: _CONTENT[name] for name in channels},
            "strategy": "first_reachable",
            "category": asked.category,
            "priority": lane or dice.choice(_LANES),
            "metadata": {"number": number},
        }
        if dice.random() < 0.15:
            asked.send_at = now() + dice.randrange(2_000, 8_000)
            body["send_at"] = datetime.fromtimestamp(asked.send_at / 1000, UTC).isoformat()
        if expiring and dice.random() < 0.1:
            # Later than any sending time, also by a clock that is ahead.
            body["expires_at"] = datetime.fromtimestamp(now() / 1000 + dice.uniform(15, 60), UTC).isoformat()
        self.ledger.asked.append(asked)
        return asked, body

    async def _single(self) -> None:
        asked, body = self._draw(expiring=True)
        asked.keyed = self._dice.random() < 0.5
        wants_cancelled = asked.send_at is not None and self._dice.random() < 0.5
        if asked.keyed:
            reply = await self._until_answered("POST", "/v1/notifications", body, f"one-{asked.number}")
        else:
            reply = await self._once("POST", "/v1/notifications", body)
        if reply is None:
            return
        if reply.status == 422:  # it was retried for longer than it is useful
            self._refusal("already expired")
            return
        self._note([asked], [reply.json])
        if wants_cancelled:
            stopped = await self._until_answered("POST", f"/v1/notifications/{asked.id}/cancel", None)
            if stopped is not None and stopped.status == 202:
                asked.cancelled = now()

    async def _batch(self, key: str, drawn: list[tuple[Asked, dict[str, Any]]]) -> None:
        for asked, _ in drawn:
            asked.keyed = True
        body = {"notifications": [body for _, body in drawn]}
        reply = await self._until_answered("POST", "/v1/notifications/batch", body, key)
        if reply is not None:
            self._note([asked for asked, _ in drawn], reply.json["results"])

    def _note(self, asked: list[Asked], results: list[dict[str, Any]]) -> None:
        told = now()
        self.ledger.answers.append(told)
        for one, result in zip(asked, results, strict=True):
            assert "id" in result, (one, result)
            one.id, one.accepted = result["id"], told

    async def _opt_out(self, user: str) -> None:
        wish = {"opted_out": {NEWS: "all"}}
        reply = await self._until_answered("PUT", f"/v1/users/{user}/preferences", wish)
        if reply is not None:
            self.ledger.opted_out.setdefault(user, now())

    async def _once(self, method: str, path: str, body: Any, key: str | None = None) -> Reply | None:
        """The answer, or None if the request must be repeated."""
        headers = {"idempotency-key": key} if key else {}
        try:
            async with asyncio.timeout(ANSWER_WITHIN):
                reply = await self._system.call(method, path, body, headers=headers)
        except (PyreqwestError, TimeoutError) as error:
            self._refusal(type(error).__name__)
            return None
        if reply.status == 422 and body and "expires_at" in body:
            assert reply.json["code"] == "already_expired", reply
            return reply
        if reply.status >= 500 or reply.status == 429 or (key and reply.status == 409):
            self._refusal(str(reply.status))
            return None
        assert reply.status < 300 or (reply.status in {404, 409} and path.endswith("/cancel")), reply
        return reply

    async def _until_answered(self, method: str, path: str, body: Any, key: str | None = None) -> Reply | None:
        """As `_once`, repeated. None if the client gives up."""
        try:
            found: Reply = await eventually(
                lambda: self._once(method, path, body, key), GIVES_UP_AFTER, every=self._dice.uniform(0.2, 0.6)
            )
        except AssertionError as error:
            if "not within" not in str(error):
                raise
            self._refusal("given up")
            return None
        return found

    def _refusal(self, why: str) -> None:
        self.ledger.refused[why] = self.ledger.refused.get(why, 0) + 1


def _user(number: int) -> str:
    return f"user-{number}"


def _addresses(number: int) -> dict[str, Any]:
    return {
        "email": f"u{number}@example.com",
        "phone": f"+49151{number:08d}",
        "devices": [f"device-{number}"],
    }
