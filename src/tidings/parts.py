"""The adapters that the settings ask for. The stages and the API are built with them."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from tidings.backends.kafka.queue import KafkaQueue
from tidings.backends.kafka.security import Security
from tidings.backends.kafka.settings import KafkaSettings
from tidings.backends.machine.buckets import SharedBuckets
from tidings.backends.memory.clock import SystemClock
from tidings.backends.objects.folder import Folder
from tidings.backends.parquet.files import ParquetFiles
from tidings.backends.postgres.queue import MOST_CONNECTIONS, PostgresQueue
from tidings.backends.postgres.store import PostgresStore
from tidings.channels.registry import serving
from tidings.channels.tools import Tools
from tidings.config import Settings
from tidings.model import topics
from tidings.model.errors import SettingsError
from tidings.model.tenant import CANARY_TENANT
from tidings.model.vocabulary import Channel
from tidings.pipeline.accept.accepted import AcceptedCounter
from tidings.pipeline.deliver.routed import of_its_own
from tidings.policy.token_bucket import TokenBucket
from tidings.ports.archive import ArchiveFiles
from tidings.ports.clock import Clock
from tidings.ports.inbox import Inbox
from tidings.ports.objects import Objects
from tidings.ports.provider import Provider
from tidings.ports.queue import Queue
from tidings.ports.store import Directory, Shard
from tidings.sandbox import credentials as sandbox_credentials
from tidings.sandbox.mirror import MirroredInbox
from tidings.telemetry import metrics
from tidings.templating.renderer import TemplateRenderer


@dataclass(frozen=True)
class Parts:
    """The adapters of a process, and what else its stages share."""

    settings: Settings
    clock: Clock
    queue: Queue
    directory: Directory
    shard: Shard
    ping: Callable[[], Awaitable[None]]
    objects: Objects
    providers: dict[Channel, list[Provider[Any]]]
    archive: ArchiveFiles
    renderer: TemplateRenderer
    metrics: metrics.Metrics
    accepted: AcceptedCounter
    roles: tuple[str, ...] = ()
    randomness: random.Random = field(default_factory=random.SystemRandom)
    bucket: Callable[[str, float, float], TokenBucket] = of_its_own


@asynccontextmanager
async def open_parts(settings: Settings, roles: Sequence[str] = ()) -> AsyncIterator[Parts]:
    """Connect every adapter that the settings ask for; close them at the end of the context.

    `roles`: what the process runs, in the words of `tidings run --role`. Its metrics say so.
    """
    if settings.database.dsn is None:
        raise SettingsError("there is no database.dsn; `tidings up` starts the bundled PostgreSQL and sets it")
    async with AsyncExitStack() as stack:
        clock = SystemClock()
        store = await PostgresStore.open(settings.database.dsn, settings.database.pool_size)
        stack.push_async_callback(store.close)
        queue = await _queue(settings)
        stack.push_async_callback(queue.close)
        await queue.declare(topics.subscriptions())
        await store.advise(MOST_CONNECTIONS if queue.atomic else 0)
        accepted = await stack.enter_async_context(AcceptedCounter(store.accounts, clock, uuid4).running())
        inbox: Inbox = store.inbox
        if settings.uses_sandbox:
            token = sandbox_credentials.token_of(sandbox_credentials.load_or_create(settings.data_dir / "sandbox"))
            mirrored = MirroredInbox(inbox, sandbox_url(settings), token, unseen=frozenset({CANARY_TENANT}))
            stack.push_async_callback(mirrored.close)
            inbox = mirrored
        providers: dict[Channel, list[Provider[Any]]] = {}
        for channel, provider in build_providers(settings, inbox, clock):
            stack.push_async_callback(provider.close)
            providers.setdefault(channel, []).append(provider)
        counting = metrics.Metrics()
        counting.runs(roles)
        yield Parts(
            settings=settings,
            clock=clock,
            queue=queue,
            directory=store,
            shard=store,
            ping=store.ping,
            objects=Folder(settings.data_dir / "objects"),
            providers=providers,
            archive=ParquetFiles(),
            renderer=TemplateRenderer(store.templates, clock),
            metrics=counting,
            accepted=accepted,
            roles=tuple(roles),
            bucket=SharedBuckets(settings.data_dir / "rates").bucket,
        )


async def _queue(settings: Settings) -> Queue:
    if settings.queue.kind == "kafka":
        return await KafkaQueue.open_with(kafka_settings(settings))
    return await PostgresQueue.open(str(settings.database.dsn))


def kafka_settings(settings: Settings) -> KafkaSettings:
    """The settings of the Kafka adapter."""
    queue, kafka = settings.queue, settings.kafka
    return KafkaSettings(
        queue.brokers,
        partitions=queue.partitions,
        replication=queue.replication,
        prefix=queue.prefix,
        drain_s=kafka.drain,
        group_protocol=kafka.group_protocol,
        security=Security(
            tls=kafka.tls,
            ca_file=kafka.ca_file,
            certificate_file=kafka.certificate_file,
            key_file=kafka.key_file,
            key_password=kafka.key_password.get_secret_value(),
            sasl=kafka.sasl,
            username=kafka.username,
            password=kafka.password.get_secret_value(),
            token_url=kafka.token_url,
            token_ca_file=kafka.token_ca_file,
            client_id=kafka.client_id,
            client_secret=kafka.client_secret.get_secret_value(),
            scope=kafka.scope,
            allow_plaintext=kafka.allow_plaintext,
        ),
    )


def build_providers(settings: Settings, inbox: Inbox | None, clock: Clock) -> Iterator[tuple[Channel, Provider[Any]]]:
    """The providers of each channel, in order of preference. Raises SettingsError."""
    stand_ins: dict[str, dict[str, Any]] = {}
    if settings.uses_sandbox:
        credentials = sandbox_credentials.load_or_create(settings.data_dir / "sandbox")
        stand_ins = sandbox_credentials.provider_settings(
            credentials, sandbox_url(settings), settings.sandbox.host, settings.sandbox.smtp_port
        )
    receipts = f"{settings.public_url}/v1/receipts"
    for channel in Channel:
        names = settings.provider_names(channel)
        for provider in serving(channel, names or (), settings.providers, stand_ins, Tools(receipts, clock, inbox)):
            yield channel, provider


def sandbox_url(settings: Settings) -> str:
    """The base URL of the sandbox."""
    return settings.sandbox.local_url
