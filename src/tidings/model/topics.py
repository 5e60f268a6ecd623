"""The queues by name. Each channel and each priority has its own, so that no lane waits for another."""

from __future__ import annotations

from tidings.model.vocabulary import Channel, Priority

OUTCOMES = "outcomes"

ROUTE = "route"
DELIVER = "deliver"
RECORD = "record"


def requests(priority: Priority) -> str:
    """Where `accept` puts a notification."""
    return f"requests.{priority.value}"


REQUESTS = tuple(requests(priority) for priority in Priority)
"""Every queue of notifications that are to be routed."""


def deliveries(channel: Channel, priority: Priority) -> str:
    """Where `route` puts a delivery."""
    return f"deliveries.{channel.value}.{priority.value}"


DELIVERIES = tuple(deliveries(channel, priority) for channel in Channel for priority in Priority)
"""Every queue of deliveries."""


def reader_of(topic: str) -> str:
    """The group of the flow that reads the topic."""
    if topic == OUTCOMES:
        return RECORD
    return ROUTE if topic.startswith("requests.") else DELIVER


def subscriptions() -> dict[str, tuple[str, ...]]:
    """Every topic of the flow with the groups that read it."""
    flow: dict[str, tuple[str, ...]] = {requests(priority): (ROUTE,) for priority in Priority}
    flow |= {deliveries(channel, priority): (DELIVER,) for channel in Channel for priority in Priority}
    flow[OUTCOMES] = (RECORD,)
    return flow
