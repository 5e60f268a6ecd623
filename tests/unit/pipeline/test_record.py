"""record: facts that cannot be written, because their day is archived or because the store refuses them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from support.flow import TENANT, Flow
from support.queues import depth
from support.stores import accepted, fact, notification
from tidings.model import topics
from tidings.model.days import DAY_MS, day_of
from tidings.model.outcome import Outcome
from tidings.model.vocabulary import Reason, State
from tidings.pipeline.runtime.packs import pack


async def test_a_receipt_about_an_archived_delivery_is_left_out_alone(flow: Flow) -> None:
    now = flow.clock.now()
    old, new = notification(TENANT, now - 40 * DAY_MS), notification(TENANT, now)
    await flow.store.history.append([accepted(old), fact(old, State.SENT)])
    assert await flow.store.days.begin(day_of(old.id), now) is None
    assert await flow.store.days.seal(day_of(old.id), [], now)
    await flow.queue.put(pack([accepted(new), fact(old, State.DELIVERED), fact(new, State.SENT)]))
    await flow.settle(topics.RECORD)
    assert await depth(flow.queue, topics.OUTCOMES, topics.RECORD) == 0
    assert flow.metrics.value("tidings_facts_unrecorded_total", {"reason": "archived"}) == 1
    record = await flow.store.history.get(TENANT, new.id)
    assert record is not None
    assert len(record.events) == 2
    assert await flow.store.history.get(TENANT, old.id) is None


@pytest.mark.parametrize(
    ("state", "reason", "shown"),
    [
        (State.SENT, "", State.UNCERTAIN),
        (State.DELIVERED, "", State.UNCERTAIN),
        (State.UNCERTAIN, "timeout", State.UNCERTAIN),
        (State.DEFERRED, Reason.RETRY, State.UNCERTAIN),
        (State.DEFERRED, Reason.PROVIDER_OPEN, State.PENDING),
        (State.SUPPRESSED, Reason.OPTED_OUT, State.PENDING),
    ],
)
async def test_a_delivery_is_in_doubt_if_the_fact_that_it_was_handed_over_is_refused(
    flow: Flow, monkeypatch: pytest.MonkeyPatch, state: State, reason: str, shown: State
) -> None:
    """Else the audit would find it pending and in no queue, and have it sent a second time."""
    append, sent = flow.store.history.append, notification(TENANT, flow.clock.now())

    async def picky(outcomes: Sequence[Outcome]) -> Mapping[str, int]:
        if any(outcome.detail == "refused" for outcome in outcomes):
            raise OverflowError("out of range")
        return await append(outcomes)

    monkeypatch.setattr(flow.store.history, "append", picky)
    facts = [accepted(sent), fact(sent, State.PENDING), fact(sent, state, reason=reason, detail="refused")]
    await flow.queue.put(pack(facts))
    await flow.settle(topics.RECORD)
    assert (await flow.view(sent.id)).state is shown
    assert [name async for name in flow.objects.list("aside/")]
