"""Runs the product's processes: `tidings run --role api`, `tidings run --role worker`, PostgreSQL and maybe Kafka."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

from bench import workload
from bench.kafka import KafkaBroker
from bench.postgres import Postgres
from bench.servers import Process, free_port, python
from tidings.api.keys import mint
from tidings.backends.memory.clock import SystemClock
from tidings.backends.postgres.migrate import migrate
from tidings.backends.postgres.store import PostgresStore
from tidings.model.notification import Content, EmailContent, SmsContent
from tidings.model.template import TemplateVersion, Variable
from tidings.model.tenant import Scope, Tenant
from tidings.model.user import Preferences, Profile
from tidings.model.vocabulary import Channel, State

TENANT = "bench"
WITHOUT_BOUND = 100_000_000
"""A backlog that is never reached: rows that pile one up must not be turned away."""


class Tidings:
    """The product, ready to be loaded; `dsn` is its database.

    `start_workers` and `stop_workers` switch the sending side on and off. Without `shares` tenants have no fair share:
    what starts next serves first who comes first.
    """

    def __init__(
        self, name: str, folder: Path, postgres: Postgres, vendor_port: int, kafka: KafkaBroker | None = None
    ) -> None:
        self.name = name
        self.postgres = postgres
        self.kafka = kafka
        self.port = free_port()
        self._folder = folder
        folder.mkdir(parents=True)
        self.dsn = postgres.database("flow")
        asyncio.run(migrate(self.dsn))
        self._key = asyncio.run(prepare(self.dsn, TENANT))
        self.shares = True
        self._settings = folder / "tidings.toml"
        self._vendor_port = vendor_port
        self._allow(WITHOUT_BOUND)
        self._workers: dict[str, Process] = {}
        self._api = self._run("api")
        self._api.await_port(self.port)

    @property
    def headers(self) -> dict[str, str]:
        """What a request must carry."""
        return {"authorization": f"Bearer {self._key}"}

    def roots(self) -> dict[str, int]:
        """The processes whose trees are the system, by what they are."""
        found = {"postgres": self.postgres.pid, "api": self._api.pid}
        if self.kafka is not None:
            found["kafka"] = self.kafka.pid
        return found | {name: worker.pid for name, worker in self._workers.items()}

    def start_workers(self, *, together: bool = False, granted: float = 0.0) -> None:
        """Start the sending side: a process for the critical lane, one for the others; `together`: one for all.

        `granted`: at most so many texts are sent in a second; 0: as many as can be.
        """
        self._allow(WITHOUT_BOUND, granted)
        if together:
            every = ("--lane", "critical", "--lane", "normal", "--lane", "bulk")
            self._workers["worker"] = self._run("worker", *every)
            return
        self._workers["critical worker"] = self._run(
            "worker", "--duty", "route", "--duty", "deliver", "--lane", "critical"
        )
        self._workers["worker"] = self._run("worker", "--lane", "normal", "--lane", "bulk")

    def stop_workers(self) -> None:
        """End the sending side; what waits stays in the queue."""
        for worker in self._workers.values():
            worker.stop(30)
        self._workers.clear()

    def restart_api(self, backlog: int) -> None:
        """Start the API anew; it turns notifications away from this backlog on."""
        self._api.stop(30)
        self._allow(backlog)
        self._api = self._run("api")
        self._api.await_port(self.port)

    @property
    def url(self) -> str:
        """The base URL of the API."""
        return f"http://127.0.0.1:{self.port}"

    def recorded(self) -> int:
        """How many deliveries rest as sent."""
        return asyncio.run(_sent(self.dsn))

    def close(self) -> None:
        """End both processes; PostgreSQL and Kafka belong to the caller."""
        self.stop_workers()
        self._api.stop(30)

    def _run(self, role: str, *options: str) -> Process:
        command = python("tidings.cli", "run", "--role", role, *options, "--settings", str(self._settings))
        return Process(command, self._folder / f"{role}.log")

    def _allow(self, backlog: int, granted: float = 0.0) -> None:
        """What the processes that start next read."""
        self._settings.write_text(self._toml(backlog, granted), encoding="utf-8")

    def _toml(self, backlog: int, granted: float) -> str:
        vendor = f"http://127.0.0.1:{self._vendor_port}"
        sections: dict[str, dict[str, object]] = {
            "http": {"port": self.port},
            "database": {"dsn": self.dsn},
            "sandbox": {"port": free_port(), "smtp_port": free_port()},
            "overload": {"backlog": backlog},
            "fairness": {} if self.shares else {"per_second": 0},
            "channels": {"sms": ["twilio"], "email": ["sendgrid"]},
            "providers.twilio": {
                "account_sid": "AC" + "0" * 32,
                "auth_token": "token-of-the-benchmark",
                "from_number": "+15005550006",
                "base_url": vendor,
                **({"rate": granted} if granted else {}),
            },
            "providers.sendgrid": {
                "api_key": "SG.key-of-the-benchmark",
                "from_address": "shop@example.com",
                "base_url": vendor,
            },
        }
        if self.kafka is not None:
            sections["queue"] = {"kind": "kafka", "brokers": self.kafka.bootstrap}
        lines = [f"data_dir = {json.dumps(str(self._folder / 'data'))}"]
        for section, values in sections.items():
            # JSON's strings, numbers and lists of strings are TOML's too.
            lines += [f"[{section}]", *(f"{name} = {json.dumps(value)}" for name, value in values.items())]
        return "\n".join(lines) + "\n"


async def prepare(dsn: str, tenant: str) -> str:
    """Store a tenant, its users and its templates; the secret of a key that may send."""
    store = await PostgresStore.open(dsn, 2)
    try:
        now = SystemClock().now()
        await store.tenants.add(Tenant(tenant, tenant, now))
        secret, key = mint(tenant, tuple(Scope), "bench", now, os.urandom(32))
        await store.tenants.add_key(key)
        await store.users.upsert(tenant, [_user(one) for one in workload.people()], now)
        for mode in workload.MODES:
            version = TemplateVersion(
                name=mode.template,
                version=0,
                contents={locale: _content(mode, locale) for locale in workload.LOCALES},
                variables={name: Variable() for name in mode.variables},
                created_at=now,
            )
            made = await store.templates.add_version(tenant, version)
            await store.templates.publish(tenant, mode.template, made.version)
        return secret
    finally:
        await store.close()


async def _sent(dsn: str) -> int:
    store = await PostgresStore.open(dsn, 2)
    try:
        rows = await store.history.tally(TENANT)
        return sum(row.count for row in rows if row.channel is not None and row.state is State.SENT)
    finally:
        await store.close()


def _user(person: workload.Person) -> tuple[str, Profile, Preferences | None]:
    profile = Profile(email=person.email, phone=person.phone, locale=person.locale, name=person.name)
    opted_out: dict[str, tuple[Channel, ...]] = (
        {workload.REFUSED_CATEGORY: (Channel.EMAIL,)} if person.opted_out else {}
    )
    return person.user_id, profile, Preferences(opted_out=opted_out)


def _content(mode: workload.Mode, locale: str) -> Content:
    subject, body = mode.texts[locale]
    if mode.channel == "sms":
        return Content(sms=SmsContent(body))
    return Content(email=EmailContent(subject=subject, text=body))
