"""The rules of ARCHITECTURE.md that a program can check: imports, names, lengths and more."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SRC = ROOT / "src" / "tidings"
SOURCES = sorted(SRC.rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))

VENDORS = re.compile(r"twilio|sendgrid|\bfcm\b|firebase|vonage|\bapns\b|mailgun|postmark", re.IGNORECASE)
VENDOR_ROOMS = {"channels", "sandbox"}
NEVER_IN_A_NAME = {"job", "jobs", "callback", "callbacks", "util", "utils", "helper", "helpers", "common", "manager"}
NEVER_ALONE = {"task", "message", "base", "misc"}
UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX|HACK|NotImplementedError)\b")
ENVIRONMENT = {"environ", "getenv", "environb"}
READS_THE_ENVIRONMENT = {
    "config.py",
    "backends/postgres/binaries.py",  # passes the environment to PostgreSQL, without what would configure it
    "listening.py",  # reads systemd's variables
    "telemetry/metrics.py",  # reads a variable of the metrics library
}
MOST_LINES = 400
MOST_FUNCTION_LINES = 60


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def room(path: Path) -> str:
    return path.relative_to(SRC).parts[0].removesuffix(".py")


def place(path: Path, node: ast.AST | None = None) -> str:
    return f"{path.relative_to(ROOT)}" + (f":{getattr(node, 'lineno', 0)}" if node is not None else "")


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def names(path: Path) -> Iterator[tuple[ast.AST | None, str]]:
    """The names that the file defines: its own, and those of classes, functions, parameters and fields."""
    yield None, path.stem
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node, node.name
        elif isinstance(node, ast.arg):
            yield node, node.arg
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node, node.target.id


def words(name: str) -> list[str]:
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name)]


def test_imports_point_down() -> None:
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"]
    result = subprocess.run([*command, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_vendors_are_named_in_their_rooms_alone() -> None:
    found = [
        f"{place(path)}:{number}: {line.strip()}"
        for path in SOURCES
        if room(path) not in VENDOR_ROOMS
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if VENDORS.search(line)
    ]
    assert found == []


def test_names_are_those_of_the_glossary() -> None:
    found = [
        f"{place(path, node)}: {name}"
        for path in SOURCES
        for node, name in names(path)
        if NEVER_IN_A_NAME & set(words(name))
        or (name.lower() in NEVER_ALONE and (node is None or isinstance(node, ast.ClassDef)))
    ]
    assert found == []


def test_nothing_is_unfinished() -> None:
    found = [
        f"{place(path)}:{number}: {line.strip()}"
        for path in [*SOURCES, *TESTS]
        if path != Path(__file__).resolve()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if UNFINISHED.search(line)
    ]
    assert found == []


def test_files_and_functions_are_short() -> None:
    found = [
        f"{place(path)}: {length} lines"
        for path in SOURCES
        if (length := len(path.read_text(encoding="utf-8").splitlines())) > MOST_LINES
    ]
    found += [
        f"{place(path, node)}: {node.name} has {length} lines"
        for path in SOURCES
        for node in functions(path)
        if (length := (node.end_lineno or 0) - node.lineno + 1) > MOST_FUNCTION_LINES
    ]
    assert found == []


def test_no_import_of_ours_hides_in_a_function() -> None:
    found = [
        place(path, inner)
        for path in SOURCES
        for node in functions(path)
        for inner in ast.walk(node)
        if (isinstance(inner, ast.ImportFrom) and (inner.module or "").startswith("tidings"))
        or (isinstance(inner, ast.Import) and any(alias.name.startswith("tidings") for alias in inner.names))
    ]
    assert found == []


def test_no_error_is_swallowed() -> None:
    found = [
        place(path, node)
        for path in SOURCES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ExceptHandler) and all(isinstance(line, ast.Pass) for line in node.body)
    ]
    assert found == []


def test_the_environment_is_read_in_one_place() -> None:
    found = [
        place(path, node)
        for path in SOURCES
        if str(path.relative_to(SRC)) not in READS_THE_ENVIRONMENT
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Attribute) and node.attr in ENVIRONMENT
    ]
    assert found == []


def test_no_test_sleeps() -> None:
    found = [
        place(path, node)
        for path in TESTS
        if path.name.startswith("test_")
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in {"asyncio.sleep", "time.sleep"}  # sleeping on a virtual clock is allowed
        and ast.unparse(node.args[0]) != "0"  # a yield to the loop, not a wait
    ]
    assert found == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(SRC)))
def test_every_file_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(tree(path))
