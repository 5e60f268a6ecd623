"""record: facts about archived days are counted and left out; the rest of their batch is written."""

from __future__ import annotations

from support.flow import TENANT, Flow
from support.stores import accepted, fact, notification
from tidings.model import topics
from tidings.model.days import DAY_MS, day_of
from tidings.model.vocabulary import State
from tidings.pipeline.runtime.packs import pack


async def test_a_receipt_about_an_archived_delivery_is_left_out_alone(flow: Flow) -> None:
    now = flow.clock.now()
    old, new = notification(TENANT, now - 40 * DAY_MS), notification(TENANT, now)
    await flow.store.history.append([accepted(old), fact(old, State.SENT)])
    assert await flow.store.days.begin(day_of(old.id), now) is None
    assert await flow.store.days.seal(day_of(old.id), [], now)
    await flow.queue.put(pack([accepted(new), fact(old, State.DELIVERED), fact(new, State.SENT)]))
    await flow.settle(topics.RECORD)
    assert await flow.queue.depth(topics.OUTCOMES, topics.RECORD) == 0
    assert flow.metrics.value("tidings_facts_unrecorded_total", {"reason": "archived"}) == 1
    record = await flow.store.history.get(TENANT, new.id)
    assert record is not None
    assert len(record.events) == 2
    assert await flow.store.history.get(TENANT, old.id) is None
