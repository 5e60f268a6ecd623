"""`tidings restart` under a steady load over kept-alive connections: no request fails, nothing is lost or doubled."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from pyreqwest.client import Client, ClientBuilder

from support import eventually, ticks, unique
from support.up import STARTED_WITHIN, Up, family_of, start

RESTARTS = 3
RESTED_WELL = {"sent", "delivered"}
EVERY_S = 0.05
"""The pause between two requests of a client."""
BODY = json.dumps(
    {"to": {"devices": ["device-1"]}, "content": {"push": {"title": "Order", "body": "On its way"}}}
).encode()


class Load:
    """Clients that each send one request after another, and the answers that they got."""

    def __init__(self, url: str, key: str) -> None:
        self._place = urlsplit(url)
        self._url = url + "/v1/notifications"
        self._key = key
        self.accepted: list[str] = []
        self.failures: list[str] = []
        self.connections = 0
        self.turned_away = 0
        self._over = asyncio.Event()

    def stop(self) -> None:
        self._over.set()

    async def more(self, count: int) -> None:
        """Return when `count` more notifications were accepted."""
        goal = len(self.accepted) + count
        await eventually(lambda: len(self.accepted) >= goal, 60)

    async def by_library(self, http: Client) -> None:
        """A client as products have it: a library with a connection pool."""
        async for _ in ticks(EVERY_S):
            if self._over.is_set():
                return
            due = unique("key")
            while due:
                request = http.request("POST", self._url).bearer_auth(self._key).header("idempotency-key", due)
                request = request.header("content-type", "application/json").body_bytes(BODY)
                try:
                    response = await request.build().send()
                    if self._is_answered(response.status, bytes(await response.bytes())):
                        due = ""
                except Exception as error:
                    self._fail(error)
                    due = ""

    async def by_hand(self, pipelined: int = 1) -> None:
        """A client that does no more than RFC 9112 asks: it keeps its connection until an answer says `close`.

        It sends `pipelined` requests at once. Those behind an answer with `close` were not processed: it repeats them.
        """
        writer: asyncio.StreamWriter | None = None
        reader = asyncio.StreamReader()
        answered = time.monotonic()
        try:
            async for _ in ticks(EVERY_S * pipelined):
                if self._over.is_set():
                    return
                due = [unique("key") for _ in range(pipelined)]
                while due:
                    if writer is None:
                        reader, writer = await asyncio.open_connection(self._place.hostname, self._place.port)
                        self.connections += 1
                    writer.write(b"".join(map(self._request, due)))
                    closes, again = False, []
                    while due and not closes:
                        status, body, closes = await _answer(reader)
                        answered = time.monotonic()
                        key = due.pop(0)
                        if not self._is_answered(status, body):
                            again.append(key)
                    due += again
                    if closes:
                        writer.close()
                        writer = None
        except (OSError, asyncio.IncompleteReadError) as error:
            self._fail(error, f"{time.monotonic() - answered:.2f} s after the last answer")
        finally:
            if writer is not None:
                writer.close()

    def _request(self, key: str) -> bytes:
        head = (
            f"POST {urlsplit(self._url).path} HTTP/1.1\r\nHost: {self._place.netloc}\r\nIdempotency-Key: {key}\r\n"
            f"Authorization: Bearer {self._key}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(BODY)}\r\n\r\n"
        )
        return head.encode() + BODY

    def _fail(self, error: Exception, detail: str = "") -> None:
        self.failures.append(f"{datetime.now(UTC):%H:%M:%S.%f} {error!r} {detail}")

    def _is_answered(self, status: int, body: bytes) -> bool:
        """Whether the request is over. False if the API is overloaded and asks to send it again."""
        if status == HTTPStatus.SERVICE_UNAVAILABLE or (status == HTTPStatus.CONFLICT and b"in_flight" in body):
            self.turned_away += 1
            return False
        if status == HTTPStatus.ACCEPTED:
            self.accepted.append(json.loads(body)["id"])
        else:
            self.failures.append(f"{status} {body!r}")
        return True


async def _answer(reader: asyncio.StreamReader) -> tuple[int, bytes, bool]:
    head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)).lower()
    length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.startswith(b"content-length"))
    return int(head.split()[1]), await reader.readexactly(length), b"connection: close" in head


@pytest.fixture
def settings_file(up_folder: Path, brokers: str | None) -> Path:
    """The settings file in the folder where `up` is started."""
    file = up_folder / "tidings.toml"
    lines = ["[telemetry]", 'log_level = "warning"']
    if brokers is not None:
        lines += ["[queue]", 'kind = "kafka"', f'brokers = "{brokers}"', f'prefix = "{unique("r")}."', "partitions = 2"]
    file.write_text("\n".join(lines) + "\n")
    return file


def children(up: Up) -> dict[str, int]:
    found = up.running()["children"]
    assert isinstance(found, dict)
    return found


def taken(up: Up) -> Counter[str]:
    """How many times the vendor took each delivery."""
    lines = (up.folder / "data" / "sandbox" / "arrivals.jsonl").read_text().splitlines()
    arrivals = [json.loads(line) for line in lines]
    return Counter(arrival["delivery"] for arrival in arrivals if arrival["status"] != "refused")


async def all_notifications(url: str, key: str, http: Client) -> dict[str, dict[str, Any]]:
    """All notifications by id."""
    found: dict[str, dict[str, Any]] = {}
    cursor = ""
    while True:
        request = http.request("GET", f"{url}/v1/notifications?limit=200{cursor}").bearer_auth(key)
        response = await request.build().send()
        page = json.loads(bytes(await response.bytes()))
        found |= {seen["id"]: seen for seen in page["notifications"]}
        if page["next"] is None:
            return found
        cursor = f"&cursor={page['next']}"


async def under_load(up: Up, disturb: Callable[[Load], Any]) -> Load:
    """Call `disturb` while clients send. Then check that everything accepted rests well and arrived once."""
    url = str(up.running()["api_url"])
    key = (up.folder / "data" / "demo.key").read_text().strip()
    load = Load(url, key)
    async with ClientBuilder().no_proxy().build() as http:
        async with asyncio.TaskGroup() as group:
            for client in (load.by_library(http), load.by_library(http), load.by_hand(), load.by_hand(pipelined=4)):
                group.create_task(client)
            await load.more(50)
            await disturb(load)
            await load.more(50)
            load.stop()
        up.family |= family_of(up.process.pid)
        assert load.failures == [], up.text + (up.folder / "data" / "logs" / "api.log").read_text()[-3000:]
        assert len(set(load.accepted)) == len(load.accepted)

        async def rested() -> dict[str, dict[str, Any]]:
            found = await all_notifications(url, key, http)
            states = Counter(found[id]["state"] if id in found else "missing" for id in load.accepted)
            others = [seen for seen in map(found.get, load.accepted) if seen and seen["state"] not in RESTED_WELL][:3]
            assert set(states) <= RESTED_WELL, (states, others)
            return found

        found = await eventually(rested, 90, every=0.3)
    copies = taken(up)
    assert {copies[delivery["id"]] for id in load.accepted for delivery in found[id]["deliveries"]} == {1}
    return load


@pytest.mark.timeout(300)
async def test_a_rolling_restart_loses_no_request(settings_file: Path, up_folder: Path, ups: list[Up]) -> None:
    up = await start(ups, up_folder)
    seen = [children(up)]

    async def restart(load: Load) -> None:
        for _ in range(RESTARTS):
            said = await up.tidings("restart", "worker", "api")
            assert "Replaced: worker, api." in said
            seen.append(children(up))
            await load.more(20)

    load = await under_load(up, restart)
    for role in ("api", "worker"):
        assert len({pids[role] for pids in seen}) == RESTARTS + 1
    assert len({pids["sandbox"] for pids in seen}) == 1
    await up.tidings("restart")
    up.family |= family_of(up.process.pid)
    assert not set(children(up).values()) & {pid for pids in seen for pid in pids.values()}
    assert (await up.rested(await up.paste()))["state"] == "delivered"
    # The clients were told to close their connections, and opened new ones.
    assert load.connections >= 2 * (RESTARTS + 1)
    counts = f"{len(load.accepted)} accepted, 0 failed, {load.turned_away} asked to repeat"
    print(f"{counts}, {load.connections} connections by hand")  # noqa: T201
    up.process.send_signal(signal.SIGINT)
    assert await up.ended() == 0


@pytest.mark.timeout(300)
async def test_no_connection_is_refused_while_the_api_is_dead(up_folder: Path, ups: list[Up]) -> None:
    """After kill -9 of the API, its open connections are lost, but new ones wait and are answered."""
    up = await start(ups, up_folder)
    url = urlsplit(str(up.running()["api_url"]))
    first = children(up)["api"]
    os.kill(first, signal.SIGKILL)
    await eventually(lambda: "The api was ended by SIGKILL" in up.text, STARTED_WITHIN)
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    status, _, _ = await _answer(reader)
    assert status == 200
    assert children(up)["api"] != first
    writer.close()
    up.family |= family_of(up.process.pid)


async def test_a_restart_that_cannot_succeed_changes_nothing(up_folder: Path, ups: list[Up]) -> None:
    up = await start(ups, up_folder)
    before = children(up)
    # A folder in the place of the log file: the new worker cannot start.
    logs = up_folder / "data" / "logs"
    (logs / "worker.log").rename(logs / "kept")
    (logs / "worker.log").mkdir()
    said = await up.fails("restart")
    assert "the restart was given up" in said
    assert children(up) == before
    assert (await up.rested(await up.paste()))["state"] == "delivered"
