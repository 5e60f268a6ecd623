"""The names of the queues. Each channel and each lane has its own, so no lane waits for another."""

from __future__ import annotations

from tidings.model.vocabulary import Channel, Lane, Priority

OUTCOMES = "outcomes"

ROUTE = "route"
DELIVER = "deliver"
RECORD = "record"


def requests(lane: Lane | Priority) -> str:
    """The queue into which `accept` puts notifications of this lane."""
    return f"requests.{lane}"


REQUESTS = tuple(requests(lane) for lane in Lane)
"""Every queue of notifications to be routed."""


def deliveries(channel: Channel, lane: Lane | Priority) -> str:
    """The queue into which `route` puts deliveries of this channel and lane."""
    return f"deliveries.{channel}.{lane}"


DELIVERIES = tuple(deliveries(channel, lane) for channel in Channel for lane in Lane)
"""Every queue of deliveries."""

LANES = {requests(lane): lane for lane in Lane} | {
    deliveries(channel, lane): lane for channel in Channel for lane in Lane
}
"""The lane of every queue but `outcomes`."""


def of_surplus(topic: str) -> str:
    """The queue for the surplus of `topic`; `topic` itself if it has none."""
    lane = LANES.get(topic)
    return topic if lane is None or lane.is_surplus else topic.removesuffix(lane.value) + lane.surplus.value


def reader_of(topic: str) -> str:
    """The group of the flow that reads the topic."""
    if topic == OUTCOMES:
        return RECORD
    return ROUTE if topic.startswith("requests.") else DELIVER


def subscriptions() -> dict[str, tuple[str, ...]]:
    """Every topic of the flow with the groups that read it."""
    return {topic: (reader_of(topic),) for topic in (*REQUESTS, *DELIVERIES, OUTCOMES)}
