"""Items that no stage can read cost themselves and nobody else: on both queues."""

from __future__ import annotations

from pathlib import Path

from support import eventually
from support.system import System
from tidings.model import topics
from tidings.model.vocabulary import Channel, Priority
from tidings.parts import open_parts
from tidings.ports.queue import Item

PHONE = "+4915123456789"
UNREADABLE = (b"", b"\xc1\xff not msgpack", b"\x2a", b"\x93\x01\x02\x03", b"\x81\xa1x\x01")
"""Nothing, no MessagePack, and MessagePack of other things."""
COUNT = 99


async def test_unreadable_items_go_aside_and_the_others_go_on(system: System) -> None:
    read = (topics.requests(Priority.NORMAL), topics.deliveries(Channel.SMS, Priority.NORMAL), topics.OUTCOMES)
    poison = [Item(topic, f"shop/{PHONE}", body) for topic in read for body in UNREADABLE]
    item = {"to": {"phone": PHONE}, "content": {"sms": {"text": "Hello"}}}
    async with open_parts(system.settings) as parts:
        # The same key as the innocents': on Kafka all share a partition.
        await parts.queue.put(poison)
        reply = await system.call("POST", "/v1/notifications/batch", {"notifications": [item] * COUNT})
        await parts.queue.put(poison)
    ids = [result["id"] for result in reply.json["results"]]
    for id in ids:
        await system.in_state(id, "delivered")

    async def aside() -> list[Path]:
        kept = list((system.settings.data_dir / "objects" / "aside").rglob("*.bin"))
        assert len(kept) == 2 * len(poison), len(kept)
        return kept

    kept = await eventually(aside)
    assert {path.read_bytes() for path in kept} == set(UNREADABLE)
