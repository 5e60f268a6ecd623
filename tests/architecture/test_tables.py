"""The operating guide says for every table what makes it grow and what stops that."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "operate.md"


def tables() -> set[str]:
    schema = (files("tidings.backends.postgres") / "schema.sql").read_text(encoding="utf-8")
    return set(re.findall(r"^CREATE TABLE ([\w.]+)", schema, re.MULTILINE))


def documented() -> set[str]:
    section = PAGE.read_text(encoding="utf-8").partition("### What grows, and what ends it")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| `")]
    return {name for row in rows for name in re.findall(r"`([\w.]+)`", row.split("|")[1])}


def test_every_table_is_in_the_operating_guide() -> None:
    assert len(tables()) > 15
    assert documented() == tables()
