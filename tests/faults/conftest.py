from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from confluent_kafka.admin import AdminClient

from tidings.backends.kafka.queue import KafkaQueue
from tidings.backends.kafka.settings import KafkaSettings


@pytest.fixture
async def queue(settings: KafkaSettings) -> AsyncIterator[KafkaQueue]:
    """A client with the settings of the test's own file."""
    queue = await KafkaQueue.open_with(settings)
    yield queue
    await queue.close()


@pytest.fixture
def admin(kafka_broker: str) -> AdminClient:
    return AdminClient({"bootstrap.servers": kafka_broker})
