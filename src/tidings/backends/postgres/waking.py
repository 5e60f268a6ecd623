"""Waking claimers: who waits for which queue, and how they learn that something came.

A put wakes one claimer of its own process at once; when none waits there, the other processes are notified, once for
many puts. What gets lost on the way is found by a look into all waited-for queues once a second per process.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from functools import lru_cache
from typing import Any

import asyncpg
import structlog

from tidings.backends.postgres.bounds import Bound
from tidings.backends.postgres.connection import connect, translated
from tidings.backends.postgres.statements import load
from tidings.backends.postgres.writing import quoted
from tidings.model.errors import SettingsError, Unavailable

CHANNEL = "tidings_queue"
LOOK_EVERY = 1.0
"""Seconds between two looks for what no notification told of, and for leases that ran out."""
_SOONEST_LOOK = 0.05
_SHARE_OF_WHOLE_LOOKS = 0.05
"""The share of the time that looks without a bound may take: they are long while dead rows cannot be cleaned away."""
_LONGEST_UNTIL_WHOLE = 30.0
_BACK = "<"
"""Before the lowest number of what came back to a table, and this before the table's name, in a notification."""
_NOTIFY_EVERY = 0.02
_RECONNECT_EVERY = 0.3

_SQL = load("queue")
_TABLES = load("templates/queue")
_log = structlog.get_logger("tidings.queue")


class Lane:
    """One queue table, seen by this process: its waiting claimers, and how often something came."""

    def __init__(self, relation: str) -> None:
        self.relation = relation
        self.arrivals = 0
        self.drained = -1
        """The number of arrivals at the last look that took all there was; it holds until the next arrival."""
        self.used = False
        self.bound = Bound()
        self._waiting: deque[asyncio.Future[bool]] = deque()

    @property
    def idle(self) -> int:
        """How many claimers wait."""
        return len(self._waiting)

    def wake(self) -> bool:
        """Wake the claimer that has waited longest; False when none waits."""
        self.arrivals += 1
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                future.set_result(True)
                return True
        return False

    def wake_all(self) -> None:
        """Wake every claimer: nobody knows what came."""
        while self.wake():
            pass

    async def wait(self, seen: int, seconds: float) -> None:
        """Return when something came after `arrivals` was `seen`, at the latest after `seconds`."""
        if self.arrivals != seen or seconds <= 0:
            return
        loop = asyncio.get_running_loop()
        future: asyncio.Future[bool] = loop.create_future()
        self._waiting.append(future)
        timer = loop.call_later(seconds, _give_up, future)
        try:
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.result():
                self.wake()
            raise
        finally:
            timer.cancel()
            with contextlib.suppress(ValueError):
                self._waiting.remove(future)


class Waker:
    """This process's one connection that listens, looks, takes over what leases lost, and notifies the others."""

    def __init__(self, dsn: str, reload: Callable[[], Awaitable[None]]) -> None:
        self._dsn = dsn
        self._reload = reload
        self._lanes: dict[str, Lane] = {}
        self._connection: asyncpg.Connection[asyncpg.Record] | None = None
        self._lost = asyncio.Event()
        self._look_now = asyncio.Event()
        self._to_notify: set[str] = set()
        self._whole_at = 0.0
        self._notify_now = asyncio.Event()
        self._using = asyncio.Lock()
        self._work: list[asyncio.Task[None]] = []
        self._reloading: set[asyncio.Task[None]] = set()

    def lane(self, relation: str) -> Lane:
        """The lane of a table."""
        lane = self._lanes.get(relation)
        if lane is None:
            lane = self._lanes[relation] = Lane(relation)
        return lane

    async def start(self) -> None:
        """Connect and begin. Raises Unavailable and SettingsError."""
        await self._connect()
        self._work = [asyncio.create_task(self._look()), asyncio.create_task(self._notify())]

    async def close(self) -> None:
        """Send what is still to be told, and end."""
        with contextlib.suppress(Unavailable):
            await self._send()
        pending = [*self._work, *self._reloading]
        for work in pending:
            work.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None
        for lane in self._lanes.values():
            lane.wake_all()

    def announce(self, relations: Iterable[str]) -> None:
        """Something was committed to these tables: wake a claimer here, or tell the other processes."""
        for relation in relations:
            if not self.lane(relation).wake():
                self._to_notify.add(relation)
                self._notify_now.set()

    def lower(self, relation: str, number: int) -> None:
        """Items came back to the table, with numbers from this one on: tell the claimers here and elsewhere."""
        self.lane(relation).bound.lower(number)
        self._to_notify.add(f"{_BACK}{number}{_BACK}{relation}")
        self._notify_now.set()

    async def announce_subscriptions(self) -> None:
        """There are new topics or groups: tell the other processes, now."""
        self._to_notify.add("")
        await self._send()

    async def _connect(self) -> None:
        connection = await connect(self._dsn, "tidings-queue-listen", synchronous_commit="off", enable_seqscan="off")
        self._lost.clear()
        try:
            with translated():
                connection.add_termination_listener(self._on_end)
                await connection.add_listener(CHANNEL, self._on_notification)
        except BaseException:
            connection.terminate()
            raise
        self._connection = connection

    def _on_end(self, _connection: Any) -> None:
        self._lost.set()
        self._look_now.set()
        # They find out by themselves that the server is gone, instead of waiting for it.
        for lane in self._lanes.values():
            lane.wake_all()

    def _on_notification(self, connection: Any, pid: int, _channel: str, payload: object) -> None:
        if pid == connection.get_server_pid():
            return
        if payload == "":
            reloading = asyncio.create_task(self._reload_quietly())
            self._reloading.add(reloading)
            reloading.add_done_callback(self._reloading.discard)
            return
        number, separator, relation = str(payload).removeprefix(_BACK).partition(_BACK)
        if not separator:
            relation = number
        lane = self._lanes.get(relation)
        if lane is None:
            return
        if separator:
            lane.bound.lower(int(number))
        lane.wake()

    async def _reload_quietly(self) -> None:
        # Without an answer now the next connection reloads.
        with contextlib.suppress(Unavailable):
            await self._reload()

    async def _look(self) -> None:
        pause = 0.0
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._look_now.wait()
            self._look_now.clear()
            try:
                if self._lost.is_set() or self._connection is None:
                    await self._connect()
                    await self._reload()
                    for lane in self._lanes.values():
                        lane.wake_all()
                first_end = await self._take_over()
                await self._find_missed()
                pause = min(LOOK_EVERY * random.uniform(0.8, 1.2), max(_SOONEST_LOOK, first_end))  # noqa: S311 - jitter
            except (Unavailable, SettingsError) as error:
                _log.debug("the queue's listener has no connection", why=str(error))
                self._drop()
                # As long as nobody looks for all of them, each has to look by himself.
                for lane in self._lanes.values():
                    lane.bound.forget()
                    lane.wake()
                pause = _RECONNECT_EVERY * random.uniform(0.8, 1.2)  # noqa: S311 - jitter
            except Exception:
                _log.exception("the look into the queues failed")
                pause = LOOK_EVERY

    def _drop(self) -> None:
        """Give up a connection that does not answer; the next look makes another."""
        if self._connection is not None and not self._connection.is_closed():
            self._connection.terminate()

    async def _take_over(self) -> float:
        """Return items of leases that ran out to their queues; the seconds until the next one does."""
        first_end = LOOK_EVERY
        for relation, left in await self._fetch(_SQL["leases"]):
            if left > 0:
                first_end = min(first_end, left)
                continue
            await self._fetch(_TABLES["take_over"].replace("{queue}", "queue." + quoted(relation)), relation)
            self.lower(relation, 0)
            self.announce([relation])
        return first_end

    async def _find_missed(self) -> None:
        """Wake claimers of queues that hold something nobody told of, and see where each queue begins now."""
        lanes = [lane for lane in self._lanes.values() if lane.used]
        if not lanes:
            return
        clock = asyncio.get_running_loop().time
        began = clock()
        whole = began >= self._whole_at
        for lane in lanes:
            lane.bound.begin()
        lows = [0 if whole else lane.bound.low for lane in lanes]
        looks = [_look_at(place, lane.relation) for place, lane in enumerate(lanes, 1)]
        [(_, oldest_open, next_transaction), *found] = await self._fetch(
            " UNION ALL ".join([_SQL["open"], *looks]), lows
        )
        for place, first, there in found:
            lane = lanes[place - 1]
            lane.bound.looked(first, oldest_open, next_transaction, began)
            if there and lane.idle:
                lane.wake()
        if whole:
            self._whole_at = clock() + min(_LONGEST_UNTIL_WHOLE, (clock() - began) / _SHARE_OF_WHOLE_LOOKS)

    async def _notify(self) -> None:
        while True:
            await self._notify_now.wait()
            self._notify_now.clear()
            try:
                await self._send()
            except Unavailable as error:
                # Whoever missed it looks by himself, within a second.
                _log.debug("the other claimers could not be notified", why=str(error))
            except Exception:
                _log.exception("the other claimers could not be notified")
            await asyncio.sleep(_NOTIFY_EVERY)

    async def _send(self) -> None:
        relations, self._to_notify = self._to_notify, set()
        if relations:
            await self._fetch(_SQL["notify"], list(relations))

    async def _fetch(self, statement: str, *arguments: object) -> list[asyncpg.Record]:
        async with self._using:
            if self._connection is None:
                raise Unavailable("PostgreSQL does not answer: the queue's listener is not connected")
            with translated():
                return await self._connection.fetch(statement, *arguments)


@lru_cache(maxsize=1024)
def _look_at(place: int, relation: str) -> str:
    table = "queue." + quoted(relation)
    text = _TABLES["first"].replace("{place}", str(place)).replace("{queue}", table)
    return text.replace("{name}", "'" + table.replace("'", "''") + "'")


def _give_up(future: asyncio.Future[bool]) -> None:
    if not future.done():
        future.set_result(False)
