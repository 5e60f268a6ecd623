"""`tidings dead-letters` and `tidings replays` against the API, with the stage behind it."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from support.api import TENANT, Api, World, running
from support.queues import depth
from tidings.cli.application import run
from tidings.cli.letters import WIDTH
from tidings.model.ids import DELIVERY_PREFIX, delivery_id, new_id, to_text
from tidings.model.notification import Content, Notification, Recipient, SmsContent
from tidings.model.outcome import Outcome
from tidings.model.user import Address
from tidings.model.vocabulary import Channel, State
from tidings.pipeline.schedule.replay import Replaying

NUMBER = Address(Channel.SMS, "+4915123456789")
Command = Callable[..., Awaitable[tuple[int, str, str]]]


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    """The API, with the stage that works on replays."""
    world = World()
    stopping = asyncio.Event()
    replaying = Replaying(world.store, world.store, world.queue, world.clock, world.metrics)
    async with running(world) as api, asyncio.TaskGroup() as group:
        group.create_task(replaying.run(stopping))
        yield api
        stopping.set()


@pytest.fixture
def tidings(api: Api, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs a command; its exit code, standard output and standard error."""

    async def command(*arguments: str) -> tuple[int, str, str]:
        code = await asyncio.to_thread(run, [*arguments, "--url", api.url, "--key", await api.key()])
        written = capsys.readouterr()
        return code, written.out, written.err

    return command


async def dead(api: Api, count: int = 1, expires_at: int | None = None) -> list[str]:
    """Recorded dead letters; their ids."""
    ids = []
    for number in range(count):
        now = api.world.clock.now() - 60_000 + number
        content = Content(sms=SmsContent("x"))
        sent = Notification(
            new_id(now, 0, random.getrandbits(54)), TENANT, Recipient(phone=NUMBER.value), now, content=content
        )
        if expires_at is not None:
            sent = Notification(sent.id, TENANT, sent.to, now, content=content, expires_at=expires_at)
        id = delivery_id(sent.id, 2)
        ended = Outcome(
            id, TENANT, now + 9, State.FAILED, 1, 0, "no_route", "acme", "", "the answer of the vendor " * 40, NUMBER
        )
        await api.world.store.history.append([Outcome(sent.id, TENANT, now, State.PENDING, notification=sent), ended])
        ids.append(to_text(DELIVERY_PREFIX, id))
    return ids


async def test_list_fits_a_terminal_and_keeps_ids_whole(
    api: Api, tidings: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(WIDTH))
    ids = await dead(api, 3)
    code, out, _ = await tidings("dead-letters", "list")
    assert code == 0
    assert max(len(line) for line in out.splitlines()[:-2]) <= WIDTH  # the last two are to be copied
    assert [line.split()[0] for line in out.splitlines() if "dlv_" in line] == ids[::-1]
    assert "no_route acme" in out
    _, out, _ = await tidings("dead-letters", "list", "--limit", "2")
    assert "These are the newest 2" in out
    _, out, _ = await tidings("dead-letters", "list", "--channel", "email")
    assert out == "no dead letters match\n"
    _, out, _ = await tidings("dead-letters", "list", "--json", "--reason", "no_route")
    assert {letter["id"] for letter in json.loads(out)} == set(ids)


async def test_show_has_the_cause_and_the_next_command(api: Api, tidings: Command) -> None:
    [id] = await dead(api)
    code, out, _ = await tidings("dead-letters", "show", id)
    assert code == 0
    assert max(map(len, out.splitlines()[:-1])) <= WIDTH  # the last one is to be copied, and never wrapped
    assert f"{id}  failed" in out
    assert f"sms to {NUMBER.value}: failed at acme: no_route" in out
    assert "the answer of the vendor" in out
    assert f"dead-letters replay {id}" in out
    [late] = await dead(api, expires_at=1)
    assert "It cannot be replayed: its expires_at has passed." in (await tidings("dead-letters", "show", late))[1]


async def test_replay_shows_its_progress_and_its_end(
    api: Api, tidings: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(WIDTH))
    await dead(api, 4)
    await dead(api, expires_at=1)
    code, out, err = await tidings("dead-letters", "replay", "--all", "--per-second", "1000")
    assert code == 0
    assert "finished" in err
    assert "5/5" in err
    assert "all dead letters, 1,000 a second" in out
    assert "4 of 5 found are sent again" in out
    assert "1 skipped: expired" in out
    [replay] = (await api.get("/v1/replays")).json()["replays"]
    assert await depth(api.world.queue, "outcomes", "record") == 1
    code, out, _ = await tidings("replays", "list")
    assert [line.split()[0] for line in out.splitlines() if "rpl_" in line] == [replay["id"]]
    assert max(map(len, out.splitlines())) <= WIDTH
    code, out, _ = await tidings("replays", "show", replay["id"])
    assert f"{replay['id']}  finished" in out
    code, _, err = await tidings("replays", "cancel", replay["id"])
    assert (code, err) == (1, "tidings: the API answered 409: this replay is finished; nothing is left to stop\n")


async def test_replay_of_one_and_of_a_filter(api: Api, tidings: Command) -> None:
    [id] = await dead(api)
    code, out, _ = await tidings("dead-letters", "replay", id, "--json")
    assert (code, json.loads(out)["filter"]["delivery_id"]) == (0, id)
    code, out, _ = await tidings("dead-letters", "replay", "--provider", "other", "--detach")
    assert code == 0
    assert "Its progress: " in out
    assert "provider other, 50 a second" in out


async def test_a_slow_replay_can_be_cancelled(api: Api, tidings: Command) -> None:
    await dead(api, 9)
    _, out, _ = await tidings("dead-letters", "replay", "--all", "--per-second", "1", "--detach", "--json")
    id = json.loads(out)["id"]
    code, out, _ = await tidings("replays", "cancel", id)
    assert code == 0
    assert f"{id}  cancelled" in out


@pytest.mark.parametrize("arguments", [(), ("dlv_x", "--all"), ("--all", "--channel", "sms")])
async def test_replay_needs_exactly_one_of_id_filter_and_all(tidings: Command, arguments: tuple[str, ...]) -> None:
    code, _, err = await tidings("dead-letters", "replay", *arguments)
    assert code == 2
    assert "say which: one id, or options such as --provider NAME and --since TIME, or --all" in err


async def test_refusals_are_sentences(api: Api, tidings: Command) -> None:
    code, _, err = await tidings("dead-letters", "show", "dlv_nonsense")
    assert code == 1
    assert "the API answered 404" in err
    code, _, err = await tidings("dead-letters", "list", "--since", "yesterday")
    assert code == 1
    assert "since" in err
