"""Setting aside: where an item goes that cannot be worked on, what stands beside it, and what the log may hold."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from tidings.backends.memory.clock import VirtualClock
from tidings.backends.memory.objects import MemoryObjects
from tidings.pipeline.runtime.setting_aside import ASIDE, set_aside
from tidings.telemetry.metrics import Metrics

NOW = VirtualClock().now()


class Failing(MemoryObjects):
    """Cannot hold objects whose names end so."""

    def __init__(self, end: str) -> None:
        super().__init__()
        self._end = end

    async def put(self, name: str, body: bytes) -> None:
        if name.endswith(self._end):
            raise OSError("full")
        await super().put(name, body)


async def aside(
    objects: MemoryObjects, topic: str = "requests.normal", why: str = "broken", metrics: Metrics | None = None
) -> bool:
    return await set_aside(objects, VirtualClock(), metrics or Metrics(), "route", topic, "shop/ada", b"\xff body", why)


async def names(objects: MemoryObjects) -> list[str]:
    return [name async for name in objects.list("")]


async def test_the_bytes_and_the_reason_are_stored_beside_each_other() -> None:
    objects, metrics = MemoryObjects(), Metrics()
    assert await aside(objects, metrics=metrics)
    body, why = await names(objects)
    assert body.startswith(f"{ASIDE}requests.normal/{NOW}-")
    assert (body.removesuffix(".bin"), ASIDE) == (why.removesuffix(".txt"), "aside/")
    assert await objects.get(body) == b"\xff body"
    assert await objects.get(why) == b"key: shop/ada\nreason: broken\n"
    labels = {"stage": "route", "topic": "requests.normal", "kind": "aside"}
    assert metrics.value("tidings_stage_failures_total", labels) == 1


async def test_two_items_of_one_instant_are_both_kept() -> None:
    objects = MemoryObjects()
    assert await aside(objects)
    assert await aside(objects)
    assert len(await names(objects)) == 4


@pytest.mark.parametrize(
    ("topic", "folder"),
    [("a/b.c d.é", "a_b.c_d._"), ("..x", "_._.x"), ("Az09_-.y", "Az09_-.y"), ("", "_"), ("a///b", "a_b")],
)
async def test_a_topic_becomes_the_name_of_a_folder(topic: str, folder: str) -> None:
    objects = MemoryObjects()
    assert await aside(objects, topic)
    assert {name.split("/")[1] for name in await names(objects)} == {folder}


async def test_a_long_reason_is_cut_and_a_broken_one_is_written_all_the_same() -> None:
    objects = MemoryObjects()
    assert await aside(objects, why="x" * 10_000)
    assert await aside(objects, why="half a pair: \ud800")
    sizes = sorted([len(await objects.get(name) or b"") for name in await names(objects) if name.endswith(".txt")])
    assert sizes[0] < 60
    assert 3_900 < sizes[1] <= 4_050


@pytest.mark.parametrize("end", [".bin", ".txt"])
async def test_an_item_that_the_store_cannot_hold_is_not_aside(end: str) -> None:
    metrics = Metrics()
    with capture_logs():
        assert not await aside(Failing(end), metrics=metrics)
    labels = {"stage": "route", "topic": "requests.normal", "kind": "aside"}
    assert metrics.value("tidings_stage_failures_total", labels) is None


@pytest.mark.parametrize(
    ("why", "kind"),
    [
        ("ValueError('erika@example.com')", "ValueError"),
        ("Unreadable: erika@example.com", "Unreadable"),
        ("KeyError: x (erika)", "KeyError"),
        ("w" * 200, "w" * 100),
    ],
)
@pytest.mark.parametrize("end", ["nothing", ".bin"])
async def test_the_log_has_the_kind_of_the_reason_but_no_personal_content(why: str, kind: str, end: str) -> None:
    with capture_logs() as told:
        await aside(Failing(end), why=why)
    [entry] = told
    assert entry["kind"] == kind
    assert "erika" not in repr(entry)
