"""A PostgreSQL of its own for each system: the bundled one, with the product's settings, for the peer too."""

from __future__ import annotations

import re
from pathlib import Path

import psycopg

from tidings.backends.postgres.server import Server


class Postgres:
    """A running server. Each system has one, so that none pays for another's vacuum."""

    def __init__(self, folder: Path) -> None:
        self._server = Server(folder)
        self._server.start()

    @property
    def pid(self) -> int:
        """The server's first process; the others are its children."""
        return self._server.pid

    def database(self, name: str) -> str:
        """Make an empty database; its DSN."""
        with psycopg.connect(self._server.dsn, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return re.sub(r"/tidings(?=\?|$)", f"/{name}", self._server.dsn, count=1)

    def version(self) -> str:
        """What the server says it is."""
        with psycopg.connect(self._server.dsn) as connection:
            row = connection.execute("SHOW server_version").fetchone()
            return str(row[0]).split()[0] if row else ""

    def stop(self) -> None:
        """Shut down."""
        self._server.stop()
