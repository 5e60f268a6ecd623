"""A PostgreSQL for each system, the peer too: the bundled one, with the settings that Tidings uses."""

from __future__ import annotations

import re
from pathlib import Path

import psycopg

from tidings.backends.postgres.server import Server


class Postgres:
    """A running server. Each system has its own, so that no system's figures include another one's vacuum."""

    def __init__(self, folder: Path) -> None:
        self._server = Server(folder)
        self._server.start()

    @property
    def pid(self) -> int:
        """The server's first process; the others are its children."""
        return self._server.pid

    def database(self, name: str) -> str:
        """Create an empty database; return its DSN."""
        with psycopg.connect(self._server.dsn, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return re.sub(r"/tidings(?=\?|$)", f"/{name}", self._server.dsn, count=1)

    def version(self) -> str:
        """Return the server's version."""
        with psycopg.connect(self._server.dsn) as connection:
            row = connection.execute("SHOW server_version").fetchone()
            return str(row[0]).split()[0] if row else ""

    def stop(self) -> None:
        """Stop the server."""
        self._server.stop()
