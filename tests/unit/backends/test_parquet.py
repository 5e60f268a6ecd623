"""Parquet files: any text comes back unchanged, and damaged files raise Unreadable."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tidings.backends.parquet.files import ParquetFiles
from tidings.model.errors import Unreadable
from tidings.ports.days import COLUMNS, EVENTS, NOTIFICATIONS

FILES = ParquetFiles()
ID = UUID("01a15602-97d5-7e62-8a42-7e87b73c1100")
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=30) | st.sampled_from(
    ["", " ", '"', '""', "\r", "\n", "\r\n", ",", "NULL", "\\N", "\\.", "\x1e", "\x1f", " a ", "'", '"\n"', "a\rb"]
)


def csv(rows: Sequence[Sequence[str | None]]) -> bytes:
    lines = (",".join("" if text is None else '"' + text.replace('"', '""') + '"' for text in row) for row in rows)
    return "".join(line + "\n" for line in lines).encode()


def digest(rows: Sequence[Sequence[str | None]]) -> int:
    texts = ("\x1f".join("\x1e" if text is None else text for text in row) for row in rows)
    return sum(int(hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()[:15], 16) for text in texts)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(st.tuples(TEXTS, TEXTS, TEXTS), min_size=1, max_size=20))
async def test_any_text_comes_back(tmp_path: Path, texts: list[tuple[str, str, str]]) -> None:
    rows = [
        ("acme", str(UUID(int=ID.int + 2)), "24", str(step), "1", "-5", reason, "p", reference, detail, "")
        for step, (reason, reference, detail) in enumerate(texts)
    ]
    (tmp_path / "rows.csv").write_bytes(csv(rows))
    await FILES.write(EVENTS, tmp_path / "rows.csv", tmp_path / "x.parquet")
    assert await FILES.check(EVENTS, tmp_path / "x.parquet") == (len(rows), digest(rows))
    found = await FILES.read(EVENTS, tmp_path / "x.parquet", ID)
    assert [(row[5], row[7], row[8]) for row in found] == texts
    assert await FILES.read(EVENTS, tmp_path / "x.parquet", UUID(int=ID.int + 256)) == []


async def test_a_large_body_comes_back(tmp_path: Path) -> None:
    body = bytes(range(256)) * 20_000
    rows = [
        ("acme", str(ID), None, "news", None, "0203", None, body.hex()),
        ("acme", str(UUID(int=ID.int + 256)), "", "news", "7", None, "ff", ""),
    ]
    assert len(rows[0]) == len(COLUMNS[NOTIFICATIONS])
    (tmp_path / "rows.csv").write_bytes(csv(rows))
    await FILES.write(NOTIFICATIONS, tmp_path / "rows.csv", tmp_path / "x.parquet")
    assert await FILES.check(NOTIFICATIONS, tmp_path / "x.parquet") == (2, digest(rows))
    assert await FILES.read(NOTIFICATIONS, tmp_path / "x.parquet", ID) == [("acme", ID, None, b"\2\3", None, body)]


@pytest.mark.parametrize("damage", [b"", b"PAR1", b"x" * 1000])
async def test_a_file_that_is_not_parquet_is_unreadable(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "x.parquet").write_bytes(damage)
    with pytest.raises(Unreadable, match=r"x\.parquet"):
        await FILES.check(EVENTS, tmp_path / "x.parquet")
