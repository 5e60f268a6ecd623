"""The promises of ports/objects.py, on every adapter."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tidings.backends.memory.objects import MemoryObjects
from tidings.backends.objects.folder import Folder
from tidings.model.errors import Unavailable
from tidings.ports.objects import Objects

segment = st.from_regex(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,20}", fullmatch=True)
name = st.lists(segment, min_size=1, max_size=4).map("/".join)

BAD_NAMES = [
    "", "/", "a/", "/a", "a//b", "..", "../a", "a/../b", ".", "./a", ".hidden", "a/.b", "a b", "a\\b", "a\x00b", "a\nb",
    "ä", "~/x", "C:x", "x" * 300, "a/" + "x" * 300, "a\n",
]  # fmt: skip


@pytest.fixture(params=["folder", "memory"])
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> Objects:
    return MemoryObjects() if request.param == "memory" else Folder(tmp_path / "objects")


async def names(objects: Objects, prefix: str) -> list[str]:
    return [name async for name in objects.list(prefix)]


async def test_bytes_come_back_as_they_went_in(objects: Objects) -> None:
    body = bytes(range(256)) * 1000
    await objects.put("archive/2026-01-02/part-0.parquet", body)
    assert await objects.get("archive/2026-01-02/part-0.parquet") == body
    await objects.put("empty", b"")
    assert await objects.get("empty") == b""


async def test_putting_again_replaces(objects: Objects) -> None:
    await objects.put("a", b"a long first version")
    await objects.put("a", b"short")
    assert await objects.get("a") == b"short"
    assert await names(objects, "") == ["a"]


async def test_an_unknown_name_gives_none(objects: Objects) -> None:
    await objects.put("a/b", b"x")
    for absent in ("b", "a", "a/b/c", "a/c"):
        assert await objects.get(absent) is None
        await objects.delete(absent)
    assert await objects.get("a/b") == b"x"


async def test_deleted_is_gone(objects: Objects) -> None:
    await objects.put("a", b"x")
    await objects.delete("a")
    await objects.delete("a")
    assert await objects.get("a") is None
    assert await names(objects, "") == []


async def test_names_by_prefix_sorted(objects: Objects) -> None:
    for known in ("b/2", "b/1", "b-1", "a", "b/c/3", "bc"):
        await objects.put(known, b"x")
    assert await names(objects, "") == ["a", "b-1", "b/1", "b/2", "b/c/3", "bc"]
    assert await names(objects, "b/") == ["b/1", "b/2", "b/c/3"]
    assert await names(objects, "b") == ["b-1", "b/1", "b/2", "b/c/3", "bc"]
    assert await names(objects, "b/c") == ["b/c/3"]
    assert await names(objects, "nothing/here") == []
    assert await names(objects, "../") == []


@pytest.mark.parametrize("bad", BAD_NAMES)
async def test_bad_names_are_refused(objects: Objects, bad: str) -> None:
    for refused in (objects.put(bad, b"x"), objects.get(bad), objects.delete(bad)):
        with pytest.raises(ValueError, match="name of an object"):
            await refused
    assert await names(objects, "") == []


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name, st.binary(max_size=100))
async def test_any_good_name(objects: Objects, name: str, body: bytes) -> None:
    await objects.put("one/" + name, body)
    assert await objects.get("one/" + name) == body
    assert await names(objects, "one/" + name) == ["one/" + name]
    await objects.delete("one/" + name)


async def test_of_concurrent_writers_one_wins_whole(objects: Objects) -> None:
    bodies = [bytes([number]) * 50_000 for number in range(20)]
    await asyncio.gather(*(objects.put("same/name", body) for body in bodies))
    assert await objects.get("same/name") in bodies
    assert await names(objects, "") == ["same/name"]


async def test_names_may_come_and_go_below_each_other(objects: Objects) -> None:
    for known in ("a/b/c", "a/b", "a", "a/b/c"):
        await objects.put(known, known.encode())
        assert await names(objects, "") == [known]
        await objects.delete(known)


async def test_writing_while_the_last_neighbour_is_deleted(objects: Objects) -> None:
    for round in range(30):
        await objects.put("a/b/old", b"x")
        await asyncio.gather(objects.delete("a/b/old"), objects.put(f"a/b/{round}", b"y"))
        assert await names(objects, "a") == [f"a/b/{round}"]
        await objects.delete(f"a/b/{round}")


class TestFolder:
    """Promises of the folder only."""

    async def test_reopening_finds_all_objects_and_removes_unfinished_files(self, tmp_path: Path) -> None:
        await Folder(tmp_path).put("a/b", b"x")
        for unfinished, age in (("of-a-crash", 7200), ("of-another-process", 1)):
            path = tmp_path / "a" / f".unfinished-{unfinished}"
            path.write_bytes(b"half")
            os.utime(path, (time.time() - age,) * 2)
        again = Folder(tmp_path)
        assert [name async for name in again.list("")] == ["a/b"]
        assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [".unfinished-of-another-process", "b"]

    async def test_a_failed_write_leaves_the_old_object(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        folder = Folder(tmp_path)
        await folder.put("a", b"old")

        def full(_: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(Unavailable, match="No space left on device"):
            await folder.put("a", b"new")
        assert await folder.get("a") == b"old"
        assert list(tmp_path.iterdir()) == [tmp_path / "a"]

    async def test_a_root_that_cannot_be_made(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"")
        with pytest.raises(Unavailable, match="cannot be used"):
            Folder(tmp_path / "file" / "inside")

    async def test_a_name_in_the_way(self, tmp_path: Path) -> None:
        folder = Folder(tmp_path)
        await folder.put("a", b"x")
        with pytest.raises(Unavailable, match="cannot be used"):
            await folder.put("a/b", b"y")
