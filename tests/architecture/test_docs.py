"""The documentation and the product agree: links and commands exist, and commands and words are documented."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from tidings.cli.application import COMMANDS
from tidings.model.vocabulary import Channel, State

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), ROOT / "tests" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
MAKE = re.compile(r"\bmake ([a-z]+)\b")
COMMAND = re.compile(r"\btidings ([a-z]+(?:-[a-z]+)*)\b")


def text(pages: list[Path]) -> str:
    return "\n".join(page.read_text(encoding="utf-8") for page in pages)


def code(page: Path) -> str:
    """The code blocks and code spans of a page, without its prose."""
    source = page.read_text(encoding="utf-8")
    blocks = re.findall(r"```.*?\n(.*?)```", source, re.DOTALL)
    return "\n".join([*blocks, *re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", source, flags=re.DOTALL))])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    targets = [target.partition("#")[0] for target in LINK.findall(page.read_text(encoding="utf-8"))]
    local = [target for target in targets if target and not re.match(r"[a-z]+:", target)]
    assert [target for target in local if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_that_are_shown_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(MAKE.findall(code(page))) <= targets
    assert set(COMMAND.findall(code(page))) <= set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_documented(command: str) -> None:
    assert re.search(rf"\btidings {command}\b", text(PAGES))


def test_the_glossary_has_every_word() -> None:
    glossary = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    nouns = (
        "Tenant User Address Channel Provider Category Template Notification Delivery Attempt Receipt Outcome Bucket"
    )
    words = [*nouns.split(), "Dead letter", *(channel.value for channel in Channel), *(state.value for state in State)]
    assert [word for word in words if not re.search(rf"\b{word}\b", glossary, re.IGNORECASE)] == []


def test_the_oldest_python_is_the_same_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["project"]["requires-python"] == ">=3.11"
    assert project["tool"]["ruff"]["target-version"] == "py311"
    assert project["tool"]["mypy"]["python_version"] == "3.11"
    assert "sys.version_info < (3, 11)" in (ROOT / ".ci" / "python").read_text(encoding="utf-8")
