from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient

from tidings.backends.kafka.queue import KafkaQueue
from tidings.backends.kafka.settings import KafkaSettings
from tidings.backends.postgres.migrate import migrate
from tidings.backends.postgres.server import Server


@pytest.fixture
async def queue(settings: KafkaSettings) -> AsyncIterator[KafkaQueue]:
    """A client with the settings of the test's own file."""
    queue = await KafkaQueue.open_with(settings)
    yield queue
    await queue.close()


@pytest.fixture
def admin(kafka_broker: str) -> AdminClient:
    return AdminClient({"bootstrap.servers": kafka_broker})


@pytest.fixture
async def server(open_data_dir: Path) -> AsyncIterator[Server]:
    """A PostgreSQL of the test's own, because it is frozen or killed."""
    async with Server(open_data_dir) as started:
        await migrate(started.dsn)
        yield started
