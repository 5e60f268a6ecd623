"""The worker as a role of a process: which stages read which topics, what moves the schedule, and the rounds."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from tidings.model import topics
from tidings.model.duties import EVERYTHING, Duties, Duty
from tidings.model.vocabulary import Channel, Lane
from tidings.model.wire import decode_delivery, decode_notification, decode_outcomes
from tidings.parts import Parts
from tidings.pipeline.deliver.capping import Capping
from tidings.pipeline.deliver.channel_off import ChannelOff
from tidings.pipeline.deliver.in_hand import InHand
from tidings.pipeline.deliver.recovery import Outlet, Recovery
from tidings.pipeline.deliver.rendering import Rendering
from tidings.pipeline.deliver.routed import Routed
from tidings.pipeline.deliver.stage import RECORDED_WITHIN_S, Deliver, Needs
from tidings.pipeline.deliver.switchboard import Switchboard
from tidings.pipeline.record.stage import Record
from tidings.pipeline.rounds.audit import Audit
from tidings.pipeline.rounds.canary import Canary
from tidings.pipeline.rounds.depths import Depths
from tidings.pipeline.rounds.housekeeping import Housekeeping
from tidings.pipeline.rounds.retention import Retention
from tidings.pipeline.route.stage import Route
from tidings.pipeline.runtime.categories import Categories
from tidings.pipeline.runtime.packs import of_what_may_have_been_taken
from tidings.pipeline.runtime.precedence import Noted, Precedence
from tidings.pipeline.runtime.reader import Reader, Reading
from tidings.pipeline.runtime.stopping import finishing
from tidings.pipeline.schedule.recur import Recur
from tidings.pipeline.schedule.replay import Replaying
from tidings.pipeline.schedule.stage import Schedule
from tidings.policy.shares import ShareRules, Shares
from tidings.ports.clock import Clock
from tidings.roles.accepting import accepting, composing

ROUTE_BATCH = 500
DELIVER_BATCH = 500
MOST_BATCHES = 16
"""Most batches of a channel and lane that are worked on at once, while some wait for slow providers."""
SHARE_OF_LEASE = 0.8
"""The part of a lease within which a provider call must have begun and ended."""
RECORD_BATCH = 20
"""Packs, each of up to 200 outcomes."""
RECORD_LINGER_S = 0.05
"""Pause of the recorder after a batch that was not full, because larger batches are cheaper. Only readers notice, and
they wait for young ids anyway."""


async def work(parts: Parts, stopping: asyncio.Event, duties: Duties = EVERYTHING) -> None:
    """Run the loops of these duties until `stopping` is set. Then work under way may go on for `stop.grace` seconds."""
    reads = readings(parts, duties)
    recovery = Recovery(outlets(reads), parts.shard.schedule, parts.clock, parts.metrics)
    async with finishing(stopping, parts.settings.stop.grace) as group:
        group.create_task(recovery.run(stopping))
        for reading in reads:
            reader = Reader(reading, parts.queue, parts.objects, parts.clock, parts.metrics)
            group.create_task(reader.run(stopping))
        if Duty.SCHEDULE in duties.whole:
            for moving in _schedule(parts):
                group.create_task(moving.run(stopping))
        if Duty.ROUNDS in duties.whole:
            for round_ in _rounds(parts):
                group.create_task(round_.run(stopping))


class _Runs(Protocol):
    async def run(self, stopping: asyncio.Event) -> None:
        """Work until `stopping` is set."""
        ...


def _schedule(parts: Parts) -> Iterator[_Runs]:
    """The loops of the duty `schedule`."""
    directory, shard, shares = parts.directory, parts.shard, Shares(parts.settings.fairness.rules())
    yield Recur(
        shard.recurrences,
        shard.users,
        composing(parts),
        parts.queue,
        parts.clock,
        parts.metrics,
        parts.accepted.add,
        shares,
        parts.accepted.revisit,
    )
    yield Schedule(shard.schedule, parts.queue, parts.objects, parts.clock, parts.metrics, shares)
    yield Replaying(directory, shard, parts.queue, parts.clock, parts.metrics)


def _rounds(parts: Parts) -> Iterator[_Runs]:
    """The loops of the duty `rounds`."""
    directory, shard = parts.directory, parts.shard
    yield audit(parts, parts.clock)
    yield retention(parts)
    yield Depths(parts.queue, directory.rounds, parts.clock, parts.metrics)
    if parts.settings.canary.enabled:
        yield canary(parts)
    yield Housekeeping(directory, shard, parts.objects, parts.clock, parts.metrics, parts.settings.keep.rules())


def audit(parts: Parts, clock: Clock) -> Audit:
    """The audit of a worker. A `clock` that is ahead makes it look at younger notifications."""
    every_s = parts.settings.audit.interval
    return Audit(
        parts.directory, parts.shard, parts.queue, parts.renderer, parts.objects, clock, parts.metrics, every_s
    )


def retention(parts: Parts) -> Retention:
    """The retention of a worker."""
    days = parts.settings.retention.days
    return Retention(parts.directory, parts.shard, parts.objects, parts.archive, parts.clock, parts.metrics, days)


def canary(parts: Parts) -> Canary:
    """The canary of a worker."""
    settings, accept = parts.settings.canary, accepting(parts).accept
    directory, shard = parts.directory, parts.shard
    return Canary(accept, directory, shard, parts.clock, parts.metrics, settings.interval, settings.deadline)


def readings(parts: Parts, duties: Duties = EVERYTHING) -> list[Reading[Any]]:
    """How each stage of a worker with these duties reads its topics."""
    categories = Categories(parts.directory.tenants, parts.clock)
    precedence = Precedence(parts.clock)
    reads: list[Reading[Any]] = []
    if lanes := duties.routed_lanes():
        reads += _routing(parts, lanes, categories, precedence)
    if duties.delivers:
        reads += _delivering(parts, duties, categories, precedence)
    if Duty.RECORD in duties.whole:
        reads.append(_recording(parts))
    return reads


def _delivering(parts: Parts, duties: Duties, categories: Categories, precedence: Precedence) -> Iterator[Reading[Any]]:
    """How `deliver` reads its topics, of which there is one for each channel and lane."""
    shard, settings = parts.shard, parts.settings.deliver
    needs = Needs(
        standings=shard.standings,
        history=shard.history,
        categories=categories,
        capping=Capping(shard.caps, categories),
        rendering=Rendering(parts.renderer, parts.clock),
        clock=parts.clock,
        # The system's own random numbers would take 3 % of a delivery.
        randomness=random.Random(parts.randomness.random()).random,  # noqa: S311 - nobody gains by guessing them
    )
    for channel in Channel:
        lanes = duties.delivered_lanes(channel)
        if not lanes:
            continue
        if not parts.providers.get(channel):
            channel_off = ChannelOff(categories, parts.clock)
            yield from _turned_off(channel, lanes, channel_off, _lease_without_effects_s(parts))
            continue
        switchboard = _switchboard(parts, channel, precedence)
        in_hand = InHand(parts.clock, RECORDED_WITHIN_S)
        for lane in lanes:
            deliver = Deliver(switchboard, lane, needs, settings.retry_policy(channel), settings.lease, in_hand)
            yield Reading(
                stage=topics.DELIVER,
                topic=topics.deliveries(channel, lane),
                decode=decode_delivery,
                work=precedence.noting(lane, deliver),
                stop=deliver.stop,
                max_items=DELIVER_BATCH,
                room=precedence.room(lane, DELIVER_BATCH, deliver.room),
                lease_s=settings.lease,
                in_flight=2,
                most_in_flight=MOST_BATCHES,
                after_loss=of_what_may_have_been_taken,
            )


def _recording(parts: Parts) -> Reading[Any]:
    """How `record` reads the outcomes."""
    return Reading(
        stage=topics.RECORD,
        topic=topics.OUTCOMES,
        decode=decode_outcomes,
        work=Record(parts.shard.history, parts.metrics),
        max_items=RECORD_BATCH,
        linger_s=RECORD_LINGER_S,
    )


def outlets(reads: Sequence[Reading[Any]]) -> dict[str, Outlet]:
    """Where the deliveries of each topic among `reads` go out."""
    return {
        reading.topic: Outlet(reading.work.work.switchboard, reading.work.work.lane)
        for reading in reads
        if isinstance(reading.work, Noted) and isinstance(reading.work.work, Deliver)
    }


def _narrow(parts: Parts) -> dict[Channel, Shares]:
    """The shares of narrow channels: every vendor has a rate, and half of their sum is less than a tenant's share."""
    rules, narrow = parts.settings.fairness.rules(), dict[Channel, Shares]()
    for channel, serving in parts.providers.items():
        rates = [provider.rate for provider in serving]
        if rules.per_second and rates and None not in rates:
            half = sum(rate for rate in rates if rate is not None) / 2
            if half < rules.per_second:
                narrow[channel] = Shares(ShareRules(per_second=half, burst=max(1, min(rules.burst, int(half)))))
    return narrow


def _lease_without_effects_s(parts: Parts) -> float | None:
    """The lease of stages without effects outside the queue, in seconds; None if they need none.

    They need one if the queue does not write outputs and end the claim in one transaction: a crash may repeat a batch,
    and only leased items come back marked as repeated.
    """
    return None if parts.queue.atomic else parts.settings.deliver.lease


def _turned_off(channel: Channel, lanes: Sequence[Lane], work: ChannelOff, lease_s: float | None) -> list[Reading[Any]]:
    """How the queues of a channel without providers are read, so that nothing stays in them for ever."""
    return [
        Reading(
            stage=topics.DELIVER,
            topic=topics.deliveries(channel, lane),
            decode=decode_delivery,
            work=work,
            max_items=DELIVER_BATCH,
            lease_s=lease_s,
        )
        for lane in lanes
    ]


def _routing(
    parts: Parts, lanes: Sequence[Lane], categories: Categories, precedence: Precedence
) -> Iterator[Reading[Any]]:
    """How `route` reads its topics."""
    shard, lease_s, narrow = parts.shard, _lease_without_effects_s(parts), _narrow(parts)
    for lane in lanes:
        surplus = lane.is_surplus
        route = Route(shard.standings, categories, parts.renderer, parts.clock, surplus=surplus, narrow=narrow)
        yield Reading(
            stage=topics.ROUTE,
            topic=topics.requests(lane),
            decode=decode_notification,
            work=precedence.noting(lane, route),
            room=precedence.room(lane, ROUTE_BATCH),
            max_items=ROUTE_BATCH,
            lease_s=lease_s,
        )


def _switchboard(parts: Parts, channel: Channel, precedence: Precedence) -> Switchboard:
    """The channel's providers with their weights. All lanes of this process share it."""
    settings = parts.settings
    weights = settings.channels.get(channel, {})
    routed = [
        Routed(
            provider,
            weight=weights.get(provider.name, int(place == 0)),
            patience_s=max(1.0, SHARE_OF_LEASE * settings.deliver.lease - provider.timeout_s),
            longest_pause_s=settings.deliver.retry_policy(channel).cap_s,
            bucket=parts.bucket,
        )
        for place, provider in enumerate(parts.providers[channel])
    ]
    return Switchboard(routed, settings.breaker.rules(), parts.clock, parts.metrics, precedence.is_quiet)
