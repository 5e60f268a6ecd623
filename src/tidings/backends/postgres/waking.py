"""Wakes claimers when items arrive in the tables that they wait for.

A put wakes one claimer of its own process at once. If none waits there, it notifies the other processes, once for many
puts. A notification may get lost: every two seconds each process looks into all tables that it claims from.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
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
LOOK_EVERY_S = 2.0
"""Seconds between two looks for items that no notification announced, and for leases that have ended."""
_SOONEST_LOOK_S = 0.05
_SHARE_OF_WHOLE_LOOKS = 0.05
"""The largest share of the time for looks without a bound. They take long while vacuum cannot remove dead rows."""
_LONGEST_UNTIL_WHOLE_S = 30.0
_RETURNED = "<"
"""A notification of returned items is this sign, their lowest id, this sign again and the table's name."""
_NOTIFY_EVERY_S = 0.02
_RECONNECT_EVERY_S = 0.3

_SQL = load("queue")
_TABLES = load("templates/queue")
_log = structlog.get_logger("tidings.queue")


class QueueTable:
    """A queue's table as this process sees it: its waiting claimers, and a count of arrivals."""

    def __init__(self, relation: str) -> None:
        self.relation = relation
        self.arrivals = 0
        self.drained = -1
        """The value of `arrivals` at the last look that left no item. While the two are equal, the table is empty."""
        self.used = False
        self.bound = Bound()
        self._waiting: deque[asyncio.Future[bool]] = deque()

    @property
    def idle(self) -> int:
        """The number of waiting claimers."""
        return len(self._waiting)

    def wake(self) -> bool:
        """Count an arrival and wake the claimer that has waited longest. False if none waits."""
        self.arrivals += 1
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                future.set_result(True)
                return True
        return False

    def wake_all(self) -> None:
        """Wake every claimer, for arrivals of unknown number."""
        while self.wake():
            pass

    async def wait(self, seen: int, seconds: float) -> None:
        """Return once `arrivals` is no longer `seen`, at the latest after `seconds`."""
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
    """The one connection of this process that listens, looks, takes over ended leases and notifies other processes."""

    def __init__(self, dsn: str, reload: Callable[[], Awaitable[None]]) -> None:
        self._dsn = dsn
        self._reload = reload
        self._tables: dict[str, QueueTable] = {}
        self._connection: asyncpg.Connection[asyncpg.Record] | None = None
        self._lost = asyncio.Event()
        self._look_now = asyncio.Event()
        self._to_notify: set[str] = set()
        self._whole_at = 0.0
        self._notify_now = asyncio.Event()
        self._using = asyncio.Lock()
        self._work: list[asyncio.Task[None]] = []
        self._reloading: set[asyncio.Task[None]] = set()

    def table(self, relation: str) -> QueueTable:
        """This process's view of a table."""
        table = self._tables.get(relation)
        if table is None:
            table = self._tables[relation] = QueueTable(relation)
        return table

    async def start(self) -> None:
        """Connect and start listening and looking. Raises Unavailable and SettingsError."""
        await self._connect()
        self._work = [asyncio.create_task(self._look()), asyncio.create_task(self._notify())]

    async def close(self) -> None:
        """Send the outstanding notifications and stop."""
        with contextlib.suppress(Unavailable):
            await self._send()
        pending = [*self._work, *self._reloading]
        for work in pending:
            work.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None
        for table in self._tables.values():
            table.wake_all()

    def announce(self, relations: Iterable[str]) -> None:
        """Items were committed to these tables: wake a claimer of this process, or notify the other processes."""
        for relation in relations:
            if not self.table(relation).wake():
                self._to_notify.add(relation)
                self._notify_now.set()

    def lower(self, relation: str, number: int) -> None:
        """Items came back to the table with ids from `number` on: lower the bound, here and in other processes."""
        self.table(relation).bound.lower(number)
        self._to_notify.add(f"{_RETURNED}{number}{_RETURNED}{relation}")
        self._notify_now.set()

    async def announce_subscriptions(self) -> None:
        """Tell the other processes at once that there are new topics or groups."""
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
        # Woken claimers ask the server themselves and find out that it is gone, instead of waiting.
        for table in self._tables.values():
            table.wake_all()

    def _on_notification(self, connection: Any, pid: int, _channel: str, payload: object) -> None:
        if pid == connection.get_server_pid():
            return
        if payload == "":
            reloading = asyncio.create_task(self._reload_quietly())
            self._reloading.add(reloading)
            reloading.add_done_callback(self._reloading.discard)
            return
        number, separator, relation = str(payload).removeprefix(_RETURNED).partition(_RETURNED)
        if not separator:
            relation = number
        table = self._tables.get(relation)
        if table is None:
            return
        if separator:
            table.bound.lower(int(number))
        table.wake()

    async def _reload_quietly(self) -> None:
        # If the server does not answer now, the next connection reloads.
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
                    for table in self._tables.values():
                        table.wake_all()
                first_end = LOOK_EVERY_S
                if tables := [table for table in self._tables.values() if table.used]:
                    first_end = await self._take_over()
                    await self._find_missed(tables)
                pause = min(LOOK_EVERY_S * random.uniform(0.8, 1.2), max(_SOONEST_LOOK_S, first_end))  # noqa: S311 - jitter
            except (Unavailable, SettingsError) as error:
                _log.debug("the queue's listener has no connection", why=str(error))
                self._drop()
                # While this connection is away, claimers look for themselves, and without a bound.
                for table in self._tables.values():
                    table.bound.forget()
                    table.wake()
                pause = _RECONNECT_EVERY_S * random.uniform(0.8, 1.2)  # noqa: S311 - jitter
            except Exception:
                _log.exception("the look into the queues failed")
                pause = LOOK_EVERY_S

    def _drop(self) -> None:
        """Close a connection that does not answer. The next look opens another."""
        if self._connection is not None and not self._connection.is_closed():
            self._connection.terminate()

    async def _take_over(self) -> float:
        """Return the items of ended leases to their queues. Returns the seconds until the next lease ends."""
        first_end = LOOK_EVERY_S
        for relation, left in await self._fetch(_SQL["leases"]):
            if left > 0:
                first_end = min(first_end, left)
                continue
            await self._fetch(_TABLES["take_over"].replace("{queue}", "queue." + quoted(relation)), relation)
            self.lower(relation, 0)
            self.announce([relation])
        return first_end

    async def _find_missed(self, tables: Sequence[QueueTable]) -> None:
        """Look into the tables: wake a claimer if there are items, and update the bounds."""
        clock = asyncio.get_running_loop().time
        began = clock()
        whole = began >= self._whole_at
        for table in tables:
            table.bound.begin()
        lows = [0 if whole else table.bound.low for table in tables]
        looks = [_look_at(place, table.relation) for place, table in enumerate(tables, 1)]
        [(_, oldest_open, next_transaction), *found] = await self._fetch(
            " UNION ALL ".join([_SQL["open"], *looks]), lows
        )
        for place, first, there in found:
            table = tables[place - 1]
            table.bound.looked(first, oldest_open, next_transaction, began)
            if there and table.idle:
                table.wake()
        if whole:
            self._whole_at = clock() + min(_LONGEST_UNTIL_WHOLE_S, (clock() - began) / _SHARE_OF_WHOLE_LOOKS)

    async def _notify(self) -> None:
        while True:
            await self._notify_now.wait()
            self._notify_now.clear()
            try:
                await self._send()
            except Unavailable as error:
                # The other processes look for themselves within two seconds.
                _log.debug("the other claimers could not be notified", why=str(error))
            except Exception:
                _log.exception("the other claimers could not be notified")
            await asyncio.sleep(_NOTIFY_EVERY_S)

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
    identifier = "queue." + quoted(relation)
    text = _TABLES["first"].replace("{place}", str(place)).replace("{queue}", identifier)
    return text.replace("{name}", "'" + identifier.replace("'", "''") + "'")


def _give_up(future: asyncio.Future[bool]) -> None:
    if not future.done():
        future.set_result(False)
