"""The object store as files in a folder."""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path

from tidings.model.errors import Unavailable

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")
_LONGEST_SEGMENT = 200
_UNFINISHED = ".unfinished-"
_ABANDONED_AFTER_S = 3600
"""Seconds after which an unfinished file is taken for abandoned: other processes may be writing to this folder."""
_TRIES = 5
_numbers = itertools.count()


class Folder:
    """See Objects. Creates `root` if it is missing.

    An object is written to a temporary file, synced and renamed, and then the folder is synced: after a power cut the
    object is whole or absent. Opening the folder removes unfinished files that are older than an hour.

    Raises:
        Unavailable: from every method, if the disk is full or refuses access.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        try:
            root.mkdir(parents=True, exist_ok=True)
            for unfinished in root.rglob(f"{_UNFINISHED}*"):
                if time.time() - unfinished.stat().st_mtime > _ABANDONED_AFTER_S:
                    unfinished.unlink(missing_ok=True)
        except OSError as error:
            raise _refused(root, error) from error

    async def put(self, name: str, body: bytes) -> None:
        """See Objects."""
        await asyncio.to_thread(_write, self._path(name), body)

    async def get(self, name: str) -> bytes | None:
        """See Objects."""
        return await asyncio.to_thread(_read, self._path(name))

    async def list(self, prefix: str) -> AsyncIterator[str]:
        """See Objects."""
        for name in await asyncio.to_thread(_names, self._root, prefix):
            yield name

    async def delete(self, name: str) -> None:
        """See Objects."""
        await asyncio.to_thread(_delete, self._root, self._path(name))

    def _path(self, name: str) -> Path:
        if not _NAME.fullmatch(name) or any(len(segment) > _LONGEST_SEGMENT for segment in name.split("/")):
            raise ValueError(
                f"{name[:100]!r} is not the name of an object: use segments of letters, digits, '.', '_' and '-', "
                f"which do not start with a dot and have at most {_LONGEST_SEGMENT} characters, separated by '/'"
            )
        return self._root / name


def _names(root: Path, prefix: str) -> list[str]:
    # Walk only the folder that the prefix points into, not the whole tree.
    start = root / prefix.rpartition("/")[0] if _NAME.fullmatch(prefix.strip("/")) else root
    names = []
    for folder, _, files in os.walk(start):
        inside = Path(folder).relative_to(root).as_posix()
        names += [file if inside == "." else f"{inside}/{file}" for file in files if not file.startswith(".")]
    return sorted(name for name in names if name.startswith(prefix))


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    except OSError as error:
        raise _refused(path, error) from error


def _write(path: Path, body: bytes) -> None:
    try:
        for _ in range(_TRIES - 1):
            try:
                return _write_once(path, body)
            except FileNotFoundError:
                continue  # a concurrent delete removed the empty folder
        return _write_once(path, body)
    except OSError as error:
        raise _refused(path, error) from error


def _write_once(path: Path, body: bytes) -> None:
    unfinished = path.with_name(f"{_UNFINISHED}{os.getpid()}-{next(_numbers)}")
    _make(path.parent)
    try:
        with unfinished.open("xb") as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except OSError:
        unfinished.unlink(missing_ok=True)
        raise
    _sync(path.parent)


def _delete(root: Path, path: Path) -> None:
    try:
        path.unlink()
        _sync(path.parent)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return
    except OSError as error:
        raise _refused(path, error) from error
    # Remove empty folders: they would be in the way of an object with the same name.
    for folder in itertools.takewhile(lambda folder: folder != root, path.parents):
        try:
            folder.rmdir()
        except OSError:
            return


def _make(folder: Path) -> None:
    """Create the folder and its missing parents, and sync the parent of each."""
    missing = list(itertools.takewhile(lambda path: not path.exists(), [folder, *folder.parents]))
    for path in reversed(missing):
        path.mkdir(exist_ok=True)
        _sync(path.parent)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _refused(path: Path, error: OSError) -> Unavailable:
    return Unavailable(f"{path} cannot be used ({error.strerror or error}): check the disk's free space and its rights")
