"""Mails through a `Flow` whose providers are out, or ask for less."""

from __future__ import annotations

from typing import Any

from support.flow import MAIL, Flow, Recorder
from tidings.model.sending import About, Retry
from tidings.model.vocabulary import Channel, State
from tidings.report.notifications import NotificationView

SAYS_ACCOUNT = Retry("throttled", 1.0, "slow down", About.ACCOUNT)
HOUR = 3600


def mails(flow: Flow) -> Recorder:
    """The provider of emails."""
    return flow.provider(Channel.EMAIL)


def two(flow: Flow) -> tuple[Recorder, Recorder]:
    """The provider of emails, and a second one from now on."""
    flow.providers[Channel.EMAIL].append(Recorder("email-two", Channel.EMAIL))
    return flow.provider(Channel.EMAIL), flow.provider(Channel.EMAIL, 1)


async def send(flow: Flow, number: int = 0, **more: Any) -> Any:
    """The id of a mail to the person with this number."""
    return await flow.accept(to={"email": f"person-{number}@example.com"}, content=MAIL, **more)


def facts(view: NotificationView) -> list[tuple[State, str]]:
    """State and reason of each fact about a delivery."""
    return [(entry.state, entry.reason) for entry in view.timeline if entry.delivery is not None]
