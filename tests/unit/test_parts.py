"""What the settings say reaches the adapters."""

from __future__ import annotations

from msgspec import structs

from tidings.backends.kafka.security import Security
from tidings.config import Settings
from tidings.parts import kafka_settings


def test_every_setting_of_kafka_reaches_the_adapter_under_its_own_name() -> None:
    security = {
        field.name: True if field.type in {bool, "bool"} else f"the-{field.name}" for field in structs.fields(Security)
    } | {"sasl": "PLAIN"}
    queue = {"brokers": "b1:1,b2:2", "partitions": 7, "replication": 5, "prefix": "the-prefix"}
    settings = kafka_settings(
        Settings.model_validate({"queue": queue, "kafka": security | {"drain": 3.5, "group_protocol": "classic"}})
    )
    assert structs.asdict(settings.security) == security
    assert {name: getattr(settings, name) for name in queue} == queue
    assert (settings.drain_s, settings.group_protocol) == (3.5, "classic")
