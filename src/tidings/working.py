"""A worker: the stages with the topics that they read, and the rounds beside them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any

from tidings.model import topics
from tidings.model.vocabulary import Channel, Priority
from tidings.model.wire import decode_delivery, decode_notification, decode_outcomes
from tidings.parts import Parts, unserved
from tidings.pipeline.accept import Accept
from tidings.pipeline.audit import Audit
from tidings.pipeline.canary import Canary
from tidings.pipeline.capping import Capping
from tidings.pipeline.categories import Categories
from tidings.pipeline.channel_off import ChannelOff
from tidings.pipeline.compose import Composer
from tidings.pipeline.deliver import Deliver, Needs
from tidings.pipeline.housekeeping import keep_house
from tidings.pipeline.packs import of_what_may_have_been_taken
from tidings.pipeline.recipients import Recipients
from tidings.pipeline.record import Record
from tidings.pipeline.recur import Recur
from tidings.pipeline.replay import Replaying
from tidings.pipeline.rounds import repeat
from tidings.pipeline.route import Route
from tidings.pipeline.schedule import Schedule
from tidings.pipeline.stage import Reader, Reading
from tidings.pipeline.stopping import finishing
from tidings.pipeline.switchboard import Routed, Switchboard
from tidings.ports.clock import Clock

LANES, URGENT = frozenset(Priority), frozenset({Priority.CRITICAL})

ROUTE_BATCH = 500
DELIVER_BATCH = 500
MOST_BATCHES = 16
"""Batches of a lane that wait for slow providers at once, at most."""
SHARE_OF_LEASE = 0.8
RECORD_BATCH = 20
"""Packs, each of up to 200 outcomes."""
RECORD_LINGER = 0.05
"""Seconds. Nobody waits for the recorder but readers, and they wait for young ids; a larger batch is cheaper."""


async def work(parts: Parts, stopping: asyncio.Event, lanes: frozenset[Priority] = LANES) -> None:
    """The reading stages, each topic in a loop, until `stopping` is set; what is under way then has the grace.

    A worker for the critical lane alone does nothing but route and deliver it: so nothing that waits elsewhere, however
    much it is, takes its turns.
    """
    store, composer = parts.store, composing(parts)
    recur = Recur(
        store.recurrences,
        store.users,
        composer,
        parts.queue,
        parts.clock,
        parts.metrics,
        parts.accepted.add,
        parts.accepted.revisit,
    )
    async with finishing(stopping, parts.settings.stop.grace) as group:
        for reading in readings(parts, lanes):
            reader = Reader(reading, parts.queue, parts.objects, parts.clock, parts.metrics)
            group.create_task(reader.run(stopping))
        if lanes == URGENT:
            return
        group.create_task(recur.run(stopping))
        group.create_task(Schedule(store.schedule, parts.queue, parts.clock, parts.metrics).run(stopping))
        group.create_task(Replaying(store, parts.queue, parts.clock, parts.metrics).run(stopping))
        group.create_task(audit(parts, parts.clock).run(stopping))
        if parts.settings.canary.enabled:
            group.create_task(canary(parts).run(stopping))
        house = partial(keep_house, parts.store, parts.clock)
        group.create_task(repeat("house", house, 3600, stopping, parts.clock, parts.metrics))


def audit(parts: Parts, clock: Clock) -> Audit:
    """The audit as a worker makes it; `clock` may be ahead of the others, to look at what is younger."""
    every = parts.settings.audit.interval
    return Audit(parts.store, parts.queue, parts.renderer, parts.objects, clock, parts.metrics, every)


def canary(parts: Parts) -> Canary:
    """The canary as a worker sends it."""
    settings, accept = parts.settings.canary, accepting(parts).accept
    return Canary(accept, parts.store, parts.clock, parts.metrics, settings.interval, settings.deadline)


def readings(parts: Parts, lanes: frozenset[Priority] = LANES) -> list[Reading[Any]]:
    """Which stage reads which topic, and how, in a worker for these lanes."""
    store, settings = parts.store, parts.settings.deliver
    ordered = [lane for lane in Priority if lane in lanes]
    categories = Categories(store.tenants, parts.clock)
    route = Route(store.users, store.cancellations, categories, parts.renderer, parts.clock)
    # Where outputs and acknowledgement are not one transaction, a crash may repeat a batch: it must come back marked.
    marked = None if parts.queue.atomic else settings.lease
    found: list[Reading[Any]] = [
        Reading(
            stage=topics.ROUTE,
            topic=topics.requests(priority),
            decode=decode_notification,
            work=route,
            max_items=ROUTE_BATCH,
            lease=marked,
        )
        for priority in ordered
    ]
    needs = Needs(
        users=store.users,
        cancellations=store.cancellations,
        history=store.history,
        categories=categories,
        capping=Capping(store.caps, categories),
        renderer=parts.renderer,
        clock=parts.clock,
        randomness=parts.randomness.random,
    )
    for channel in Channel:
        if not parts.providers.get(channel):
            found += _turned_off(channel, ordered, ChannelOff(categories, parts.clock), marked)
            continue
        switchboard = _switchboard(parts, channel)
        for priority in ordered:
            deliver = Deliver(switchboard, priority, needs, settings.retry_policy(channel), settings.lease)
            found.append(
                Reading(
                    stage=topics.DELIVER,
                    topic=topics.deliveries(channel, priority),
                    decode=decode_delivery,
                    work=deliver,
                    stop=deliver.stop,
                    max_items=DELIVER_BATCH,
                    room=deliver.room,
                    lease=settings.lease,
                    in_flight=2,
                    most_in_flight=MOST_BATCHES,
                    after_loss=of_what_may_have_been_taken,
                )
            )
    recording = Reading(
        stage=topics.RECORD,
        topic=topics.OUTCOMES,
        decode=decode_outcomes,
        work=Record(store.history),
        max_items=RECORD_BATCH,
        linger=RECORD_LINGER,
    )
    return found if lanes == URGENT else [*found, recording]


def _turned_off(
    channel: Channel, lanes: Sequence[Priority], work: ChannelOff, marked: float | None
) -> list[Reading[Any]]:
    """How the queues of a channel without providers are read: nothing is to lie in them for ever."""
    return [
        Reading(
            stage=topics.DELIVER,
            topic=topics.deliveries(channel, priority),
            decode=decode_delivery,
            work=work,
            max_items=DELIVER_BATCH,
            lease=marked,
        )
        for priority in lanes
    ]


def _switchboard(parts: Parts, channel: Channel) -> Switchboard:
    """The channel's providers by weight, as all lanes of this process share them."""
    settings = parts.settings
    weights = settings.channels.get(channel, {})
    routed = [
        Routed(
            provider,
            weight=weights.get(provider.name, int(place == 0)),
            patience=max(1.0, SHARE_OF_LEASE * settings.deliver.lease - provider.timeout),
        )
        for place, provider in enumerate(parts.providers[channel])
    ]
    return Switchboard(routed, settings.breaker.rules(), parts.clock, parts.metrics)


def composing(parts: Parts) -> Composer:
    """What makes notifications of requests."""
    recipients = Recipients(parts.store.users, parts.clock)
    return Composer(parts.renderer, parts.randomness.getrandbits, unserved(parts.settings), recipients)


def accepting(parts: Parts) -> Accept:
    """The first stage."""
    store = parts.store
    return Accept(
        queue=parts.queue,
        renderer=parts.renderer,
        idempotency=store.idempotency,
        history=store.history,
        clock=parts.clock,
        randomness=parts.randomness.getrandbits,
        receipt_readers={
            provider.name: (channel, provider.receipts)
            for channel, serving in parts.providers.items()
            for provider in serving
        },
        rules=parts.settings.overload.rules(),
        count=parts.accepted.add,
        unserved=unserved(parts.settings),
        recipients=Recipients(store.users, parts.clock),
        revisit=parts.accepted.revisit,
    )
