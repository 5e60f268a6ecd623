"""Runs Tidings: `tidings run --role api`, `tidings run --role worker`, PostgreSQL, and Kafka if it is the queue."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping
from pathlib import Path

from bench import workload
from bench.kafka import KafkaBroker
from bench.postgres import Postgres
from bench.servers import Process, free_port, python
from tidings.api.keys import mint
from tidings.backends.memory.clock import SystemClock
from tidings.backends.postgres.migrate import migrate
from tidings.backends.postgres.store import PostgresStore
from tidings.model.duties import ALL_BUT_CRITICAL, CRITICAL_ALONE
from tidings.model.notification import Content, EmailContent, SmsContent
from tidings.model.template import TemplateVersion, Variable
from tidings.model.tenant import Scope, Tenant
from tidings.model.user import Preferences, Profile
from tidings.model.vocabulary import Channel, State

TENANT = "bench"
UNLIMITED_BACKLOG = 100_000_000
"""A backlog that is never reached, for rows that pile one up: nothing may be refused there."""


class Tidings:
    """Tidings, ready for a load. Its workers can be started and stopped; `dsn` is its database.

    Processes that start while `shares` is False serve tenants first come, first served, without fair shares. With
    `smtp`, the settings of a mail server, emails go there.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        postgres: Postgres,
        vendor_port: int,
        kafka: KafkaBroker | None = None,
        smtp: Mapping[str, object] | None = None,
    ) -> None:
        self.name = name
        self.postgres = postgres
        self.kafka = kafka
        self.port = free_port()
        self._folder = folder
        folder.mkdir(parents=True)
        self.dsn = postgres.database("flow")
        asyncio.run(migrate(self.dsn))
        self._key = asyncio.run(prepare_tenant(self.dsn, TENANT))
        self.shares = True
        self._settings_file = folder / "tidings.toml"
        self._vendor_port = vendor_port
        self._smtp = smtp
        self._write_settings(UNLIMITED_BACKLOG)
        self._workers: dict[str, Process] = {}
        self._api = self._run("api", "api")
        self._api.await_port(self.port)

    @property
    def headers(self) -> dict[str, str]:
        """The headers of each request."""
        return {"authorization": f"Bearer {self._key}"}

    def roots(self) -> dict[str, int]:
        """Its processes: the part of the system to the id of the process, whose descendants count too."""
        parts = {"postgres": self.postgres.pid, "api": self._api.pid}
        if self.kafka is not None:
            parts["kafka"] = self.kafka.pid
        return parts | {name: worker.pid for name, worker in self._workers.items()}

    def start_workers(self, *, together: bool = False, sms_rate_per_s: float = 0.0) -> None:
        """Start a worker for the critical lane and one for everything else; with `together`, one worker for all.

        `sms_rate_per_s` is the rate that the SMS vendor grants; 0: no bound.
        """
        self._write_settings(UNLIMITED_BACKLOG, sms_rate_per_s)
        if together:
            self._workers["worker"] = self._run("worker", "route,deliver,record,schedule,rounds")
            return
        self._workers["critical worker"] = self._run("critical worker", ",".join(CRITICAL_ALONE.names()))
        self._workers["worker"] = self._run("worker", ",".join(ALL_BUT_CRITICAL.names()))

    def stop_workers(self) -> None:
        """Stop the workers; waiting notifications stay in the queue."""
        for worker in self._workers.values():
            worker.stop(30)
        self._workers.clear()

    def restart_api(self, backlog: int) -> None:
        """Restart the API; it refuses notifications beyond this `backlog`."""
        self._api.stop(30)
        self._write_settings(backlog)
        self._api = self._run("api", "api")
        self._api.await_port(self.port)

    @property
    def url(self) -> str:
        """The base URL of the API."""
        return f"http://127.0.0.1:{self.port}"

    def recorded(self) -> int:
        """Count the deliveries that are recorded as sent."""
        return asyncio.run(_sent(self.dsn))

    def close(self) -> None:
        """Stop the API and the workers. PostgreSQL and Kafka belong to the caller."""
        self.stop_workers()
        self._api.stop(30)

    def _run(self, name: str, roles: str) -> Process:
        command = python("tidings.cli", "run", "--role", roles, "--settings", str(self._settings_file))
        return Process(command, self._folder / f"{name}.log")

    def _write_settings(self, backlog: int, sms_rate_per_s: float = 0.0) -> None:
        """Write the settings for the processes that start next."""
        self._settings_file.write_text(self._toml(backlog, sms_rate_per_s), encoding="utf-8")

    def _toml(self, backlog: int, sms_rate_per_s: float) -> str:
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
                **({"rate": sms_rate_per_s} if sms_rate_per_s else {}),
            },
            "providers.sendgrid": {
                "api_key": "SG.key-of-the-benchmark",
                "from_address": "shop@example.com",
                "base_url": vendor,
            },
        }
        if self._smtp is not None:
            sections["channels"]["email"] = ["smtp"]
            sections["providers.smtp"] = {"from_address": "shop@example.com", **self._smtp}
        if self.kafka is not None:
            sections["queue"] = {"kind": "kafka", "brokers": self.kafka.bootstrap}
        lines = [f"data_dir = {json.dumps(str(self._folder / 'data'))}"]
        for section, values in sections.items():
            # JSON strings, numbers, booleans and lists of strings are valid TOML.
            lines += [f"[{section}]", *(f"{name} = {json.dumps(value)}" for name, value in values.items())]
        return "\n".join(lines) + "\n"


async def prepare_tenant(dsn: str, tenant: str) -> str:
    """Store a tenant with its users and templates; return the secret of an API key that may do everything."""
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
            added = await store.templates.add_version(tenant, version)
            await store.templates.publish(tenant, mode.template, added.version)
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
