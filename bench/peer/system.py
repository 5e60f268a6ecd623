"""Runs the peer: uvicorn, Celery with prefork workers, Redis, and a PostgreSQL of its own."""

from __future__ import annotations

import os
from pathlib import Path

import psycopg
from sqlalchemy import create_engine, insert
from sqlalchemy.orm import Session

from bench import workload
from bench.peer.models import Base, OptOut, Template, User
from bench.postgres import Postgres
from bench.servers import Process, Redis, free_port, python

API_KEY = "peer-key"


class Peer:
    """The peer, ready for a load. Its workers can be started and stopped."""

    name = "peer"

    def __init__(self, folder: Path, postgres: Postgres, vendor_port: int) -> None:
        self._folder = folder
        folder.mkdir(parents=True)
        self.postgres = postgres
        self._dsn = postgres.database("peer")
        self.redis = Redis(folder / "redis")
        self._environment = {
            "PEER_DATABASE_URL": self._dsn.replace("postgresql://", "postgresql+psycopg://", 1),
            "PEER_REDIS_URL": self.redis.url,
            "PEER_API_KEY": API_KEY,
            "PEER_SENDGRID_URL": f"http://127.0.0.1:{vendor_port}",
            "PEER_TWILIO_URL": f"http://127.0.0.1:{vendor_port}",
        }
        self._workers: Process | None = None
        self._load_users()
        self.port = free_port()
        command = python("uvicorn", "bench.peer.api:app", "--port", str(self.port), "--no-access-log")
        self._api = Process(command, folder / "api.log", self._environment)
        self._api.await_port(self.port)

    @property
    def headers(self) -> dict[str, str]:
        """The headers of each request."""
        return {"authorization": f"Bearer {API_KEY}"}

    def roots(self) -> dict[str, int]:
        """Its processes: the part of the system to the id of the process, whose descendants count too."""
        parts = {"postgres": self.postgres.pid, "api": self._api.pid, "redis": self.redis.pid}
        if self._workers is not None:
            parts["worker"] = self._workers.pid
        return parts

    def start_workers(self) -> None:
        """Start a prefork worker for each core."""
        command = python("celery", "-A", "bench.peer.worker", "worker", "--pool", "prefork", "--loglevel", "warning")
        quiet = ["--without-gossip", "--without-mingle", "--concurrency", str(os.cpu_count() or 2)]
        self._workers = Process([*command, *quiet], self._folder / "workers.log", self._environment)

    def stop_workers(self) -> None:
        """Stop the workers; waiting notifications stay in Redis."""
        if self._workers is not None:
            self._workers.stop()
            self._workers = None

    def recorded(self) -> int:
        """Count the notifications that are recorded as sent."""
        with psycopg.connect(self._dsn) as connection:
            row = connection.execute("SELECT count(*) FROM notifications WHERE status = 'sent'").fetchone()
            return int(row[0]) if row else 0

    def close(self) -> None:
        """Stop everything except PostgreSQL, which belongs to the caller."""
        self.stop_workers()
        self._api.stop()
        self.redis.stop()

    def _load_users(self) -> None:
        engine = create_engine(self._environment["PEER_DATABASE_URL"])
        Base.metadata.create_all(engine)
        people = workload.people()
        with Session(engine) as db:
            fields = ("name", "email", "phone", "locale")
            rows = [{"id": one.user_id} | {field: getattr(one, field) for field in fields} for one in people]
            db.execute(insert(User), rows)
            refused = [one.user_id for one in people if one.opted_out]
            db.execute(
                insert(OptOut),
                [{"user_id": id, "category": workload.REFUSED_CATEGORY, "channel": "email"} for id in refused],
            )
            for mode in workload.MODES:
                for locale, (subject, body) in mode.texts.items():
                    texts = {"subject": subject, "body": body}
                    db.add(Template(name=mode.template, locale=locale, channel=mode.channel, **texts))
            db.commit()
        engine.dispose()
