"""A person in a `Flow` whose addresses and preferences change, and what reaches this person."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from support.flow import TENANT, Flow, instant
from tidings.model.user import Preferences, Profile, QuietHours
from tidings.model.vocabulary import Channel, State

ADA = {"user_id": "ada"}
HOUR = 3600


async def put_user(flow: Flow, user_id: str = "ada", preferences: Preferences | None = None, **profile: Any) -> None:
    """Store a user with these addresses alone."""
    await flow.store.users.upsert(TENANT, [(user_id, Profile(**profile), preferences)], flow.clock.now())


def tomorrow(flow: Flow) -> str:
    """The instant in 24 hours, as a request names it."""
    return instant(flow.clock.now() + 24 * HOUR * 1000)


async def overnight(flow: Flow, content: dict[str, Any], **body: Any) -> UUID:
    """A routed notification, whose deliveries wait for the end of the quiet hours."""
    hour = datetime.fromtimestamp(flow.clock.now() / 1000, UTC).hour * 60
    hours = QuietHours(hour, (hour + 120) % 1440)
    await flow.store.users.set_preferences(TENANT, "ada", Preferences(quiet_hours=hours), flow.clock.now())
    id: UUID = await flow.accept(to=ADA, content=content, **body)
    await flow.settle()
    assert {delivery.state for delivery in (await flow.view(id)).deliveries} == {State.DEFERRED}
    return id


def reached(flow: Flow, channel: Channel) -> list[str]:
    """The addresses to which the channel's provider has sent."""
    return [delivery.to for delivery in flow.provider(channel).sent]


async def results(flow: Flow, id: UUID) -> list[tuple[State, str, str]]:
    """The state, the reason and the address of each delivery."""
    return [(delivery.state, delivery.reason, delivery.address) for delivery in (await flow.view(id)).deliveries]
