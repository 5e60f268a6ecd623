"""Idempotency keys when a process dies between its put and its answer, and when many clients ask at once.

Also run as a program, to be killed: a first stage that never gets to answer (python test_idempotency.py SETTINGS put
KEY BODY), a worker (… SETTINGS work LOG BATCH).
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import random
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from pyreqwest.client import ClientBuilder
from pyreqwest.exceptions import PyreqwestError

from support import eventually
from support.flow import Recorder
from support.queues import depth
from support.system import Processes, Reply, System, settings_for, tenant_with_key
from tidings.config import Settings
from tidings.model import topics
from tidings.model.errors import Unavailable
from tidings.model.sending import AnyDelivery, SendResult
from tidings.model.vocabulary import Channel, Lane
from tidings.parts import Parts, open_parts
from tidings.pipeline.accept.stage import Accept, Answer
from tidings.ports.clock import Clock
from tidings.ports.provider import Provider
from tidings.roles import worker

TENANT = "shop"
BACKLOG = 40
LEASE = 5


def sms(number: int) -> bytes:
    return json.dumps({"to": {"phone": f"+49151{number:08d}"}, "content": {"sms": {"text": "Hello"}}}).encode()


def accept_of(parts: Parts, clock: Clock | None = None) -> Accept:
    bits = random.getrandbits
    rules = parts.settings.overload.rules()
    clock = clock or parts.clock
    return Accept(parts.queue, parts.renderer, parts.directory.idempotency, parts.shard.history, clock, bits, {}, rules)


async def taken(accept: Accept, body: bytes, key: str) -> Answer:
    """The answer for a patient client, which asks again if it gets none in time."""

    async def ask() -> Answer:
        try:
            return await accept.accept(TENANT, body, key)
        except Unavailable as error:
            raise AssertionError(str(error)) from error

    answer: Answer = await eventually(ask, 60, every=0.1)
    return answer


async def put_and_die(file: Path, key: str, body: str) -> None:
    """Accept a request up to the answer, print that, and wait to be killed."""

    async def says(*_: object) -> None:
        sys.stdout.write("put\n")
        sys.stdout.flush()
        await asyncio.Event().wait()

    async with open_parts(Settings.model_validate_json(file.read_text())) as parts:
        parts.directory.idempotency.complete = says  # type: ignore[method-assign,assignment]
        await taken(accept_of(parts), body.encode(), key)


class Log(Recorder):
    """A provider that logs each recipient before it answers, because its process will be killed."""

    def __init__(self, file: Path) -> None:
        super().__init__("sms-one", Channel.SMS)
        self._file = file

    async def send(self, batch: Sequence[AnyDelivery]) -> Sequence[SendResult]:
        with self._file.open("a") as log:
            log.writelines(f"{outbound.to}\n" for outbound in batch)
        return await super().send(batch)


async def work_until_killed(file: Path, log: Path, batch: int) -> None:
    """Run a worker that claims up to `batch` items. In one batch, two copies would be detected at once."""
    worker.DELIVER_BATCH = worker.ROUTE_BATCH = batch
    async with open_parts(Settings.model_validate_json(file.read_text())) as parts:
        providers: dict[Channel, list[Provider[Any]]] = {**parts.providers, Channel.SMS: [Log(log)]}
        await worker.work(dataclasses.replace(parts, providers=providers), asyncio.Event())


@contextlib.asynccontextmanager
async def _program(settings: Settings, *errand: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run this file as a program, and kill it at the end."""
    file = settings.data_dir / "settings.json"
    file.write_text(settings.model_dump_json())
    program = await asyncio.create_subprocess_exec(
        sys.executable, __file__, str(file), *errand,
        stdout=asyncio.subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )  # fmt: skip
    try:
        yield program
    finally:
        with contextlib.suppress(ProcessLookupError):
            program.send_signal(signal.SIGKILL)
        await program.communicate()


async def _killed_after_its_put(settings: Settings, key: str, body: bytes) -> None:
    async with _program(settings, "put", key, body.decode()) as program, asyncio.timeout(60):
        assert program.stdout is not None
        while (line := await program.stdout.readline()) != b"put\n":
            assert line, "the program ended before its put"  # skip its log lines


async def _sent_by_two_workers(settings: Settings, parts: Parts, count: int, batch: int) -> Counter[str]:
    """How often each address was sent to, once `count` notifications are sent and nothing is left to do."""
    logs = [settings.data_dir / f"sent-{number}.log" for number in range(2)]
    async with contextlib.AsyncExitStack() as stack:
        for log in logs:
            log.touch()
            await stack.enter_async_context(_program(settings, "work", str(log), str(batch)))
        await eventually(partial(_all_sent, parts, count), 90, every=0.2)
    return Counter(line for log in logs for line in log.read_text().splitlines())


@pytest.mark.timeout(240)
async def test_a_kill_between_put_and_answer_under_a_backlog_doubles_nothing(
    tmp_path: Path, postgres_dsn: str, brokers: str | None
) -> None:
    settings = settings_for(tmp_path, postgres_dsn, brokers, deliver={"lease": LEASE})
    await tenant_with_key(postgres_dsn)
    victims = {f"key-{number}": sms(number) for number in range(3)}
    async with open_parts(settings) as parts:
        for number in range(BACKLOG):
            await taken(accept_of(parts), sms(100 + number), f"backlog-{number}")
        for key, body in victims.items():
            await _killed_after_its_put(settings, key, body)
        await _end_reservations(postgres_dsn)
        again = accept_of(parts)
        ids = {(await taken(again, body, key)).results[0] for key, body in victims.items()}
        lanes = (Lane.NORMAL, Lane.NORMAL_SURPLUS)  # second copies go with the surplus
        depths = [await depth(parts.queue, topics.requests(lane), topics.ROUTE) for lane in lanes]
        assert sum(depths) >= BACKLOG + 2 * len(victims)
        for key, body in victims.items():
            answer = await again.accept(TENANT, body, key)
            assert answer.replayed
            assert answer.results[0] in ids
        copies = await _sent_by_two_workers(settings, parts, BACKLOG + len(victims), batch=1)
    assert len(copies) == BACKLOG + len(victims)
    assert set(copies.values()) == {1}, copies


async def _end_reservations(dsn: str) -> None:
    """End the leases of the killed processes now, instead of waiting for half a minute."""
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute("UPDATE idempotency_key SET leased_until = reserved_at WHERE answer IS NULL")
    finally:
        await connection.close()


async def _all_sent(parts: Parts, count: int) -> bool:
    """True if so many notifications are sent and the queues and the schedule are empty."""
    tally = await parts.shard.history.tally(TENANT)
    assert {line.state.value: line.count for line in tally if line.channel is None} == {"sent": count}
    depths = {
        topic: await depth(parts.queue, topic, group)
        for topic, groups in topics.subscriptions().items()
        for group in groups
    }
    assert not any(depths.values()), depths
    return await parts.shard.schedule.next_due() is None


@pytest.mark.timeout(180)
@pytest.mark.parametrize("batch", [False, True], ids=["single", "batch"])
async def test_fifty_at_once_with_one_key_are_one_also_over_a_restart(
    tmp_path: Path, postgres_dsn: str, batch: bool
) -> None:
    """The API is killed meanwhile. Clients without an answer ask again, and all get the same notification."""
    settings = settings_for(tmp_path, postgres_dsn, None, deliver={"lease": LEASE})
    processes = Processes(settings)
    key = await tenant_with_key(postgres_dsn)
    path = "/v1/notifications/batch" if batch else "/v1/notifications"
    one, two = json.loads(sms(1)), json.loads(sms(2))
    body: Any = {"notifications": [one, two]} if batch else one
    async with ClientBuilder().no_proxy().build() as http:
        system = System(settings, key, http)
        try:
            await processes.start("api")
            moments = ["never", "after the first answer", *(["at once"] if batch else [])]
            for moment in moments:
                headers = {"idempotency-key": moment.replace(" ", "-")}
                asking = [asyncio.create_task(_ask(system, path, body, headers)) for _ in range(50)]
                if moment != "never":
                    await _answered(asking, 202 if moment == "after the first answer" else 0)
                    await processes.kill("api")
                    await processes.start("api")
                told = [reply for reply in await asyncio.gather(*asking) if reply is not None]
                told.append(await eventually(partial(_accepted, system, path, body, headers), 60, every=0.5))
                for reply in told:
                    assert reply.status in {202, 409, 503}, reply.body
                    if reply.status == 409:
                        assert reply.json["code"] == "idempotency_in_flight"
                        assert reply.headers["retry-after"] == "1"
                assert len({reply.body for reply in told if reply.status == 202}) == 1
                again = await system.call("POST", path, body, headers=headers)
                assert (again.status, again.body) == (202, told[-1].body)
                assert again.headers["idempotency-replayed"] == "true"
                other = await system.call("POST", path, {"notifications": [two]} if batch else two, headers=headers)
                assert (other.status, other.json["code"]) == (422, "idempotency_key_reused")
                assert moment != "never" or len(told) == 51
        finally:
            await processes.stop()
    people = 2 if batch else 1
    async with open_parts(settings) as parts:
        copies = await _sent_by_two_workers(settings, parts, people * len(moments), batch=500)
    assert list(copies.values()) == people * [len(moments)]


async def _answered(asking: list[asyncio.Task[Reply | None]], status: int) -> None:
    """Return once a client has an answer, with `status` unless that is 0."""
    for next_one in asyncio.as_completed(asking):
        reply = await next_one
        if reply is not None and status in {0, reply.status}:
            return


async def _accepted(system: System, path: str, body: Any, headers: dict[str, str]) -> Reply:
    reply = await system.call("POST", path, body, headers=headers)
    assert reply.status == 202, reply.body
    return reply


async def _ask(system: System, path: str, body: Any, headers: dict[str, str]) -> Reply | None:
    try:
        return await system.call("POST", path, body, headers=headers)
    except PyreqwestError:
        return None


if __name__ == "__main__":
    if sys.argv[2] == "put":
        asyncio.run(put_and_die(Path(sys.argv[1]), *sys.argv[3:]))
    else:
        asyncio.run(work_until_killed(Path(sys.argv[1]), Path(sys.argv[3]), int(sys.argv[4])))
