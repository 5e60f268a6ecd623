"""Channels that are turned off, and channels that are not configured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from support.flow import MAIL, TENANT, Flow
from tidings.model.errors import Invalid
from tidings.model.notification import Content, EmailContent, SmsContent
from tidings.model.template import Variable
from tidings.model.vocabulary import Channel, State
from tidings.pipeline.accept.stage import Accept

TEXT = {"sms": {"text": "Hello"}}


@pytest.fixture
async def flow(tmp_path: Path) -> Flow:
    started = await Flow(tmp_path).start()
    await started.user()
    return started


def without(flow: Flow, *unserved: Channel) -> Flow:
    """The flow of an installation in which these channels are not configured."""
    accept = flow.accept_stage
    flow.accept_stage = Accept(
        flow.queue,
        flow.renderer,
        flow.store.idempotency,
        flow.store.history,
        flow.clock,
        lambda bits: 7 % (1 << bits),
        {},
        flow.settings.overload.rules(),
        unserved=unserved,
    )
    assert type(accept) is type(flow.accept_stage)
    return flow


async def refused(flow: Flow, **body: Any) -> tuple[str, str]:
    with pytest.raises(Invalid) as raised:
        await flow.accept(to={"user_id": "ada"}, **body)
    return raised.value.code, raised.value.path


async def test_a_channel_that_is_off_is_suppressed(flow: Flow) -> None:
    flow.providers[Channel.SMS] = []
    id = await flow.accept(to={"user_id": "ada"}, content=MAIL | TEXT)
    await flow.settle()
    states = {delivery.channel: (delivery.state, delivery.reason) for delivery in (await flow.view(id)).deliveries}
    assert states == {Channel.EMAIL: (State.SENT, ""), Channel.SMS: (State.SUPPRESSED, "channel_off")}


async def test_the_next_address_takes_over_from_a_channel_that_is_off(flow: Flow) -> None:
    flow.providers[Channel.SMS] = []
    id = await flow.accept(
        to={"user_id": "ada"}, content=MAIL | TEXT, channels=["sms", "email"], strategy="first_reachable"
    )
    await flow.settle()
    states = {delivery.channel: (delivery.state, delivery.reason) for delivery in (await flow.view(id)).deliveries}
    assert states[Channel.SMS] == (State.SUPPRESSED, "channel_off")
    assert states[Channel.EMAIL][0] is State.SENT


async def test_queued_deliveries_of_a_channel_that_is_turned_off_are_suppressed(flow: Flow) -> None:
    id = await flow.accept(to={"user_id": "ada"}, content=TEXT)
    await flow.settle("route")
    flow.providers[Channel.SMS] = []
    flow._readings = None
    await flow.settle()
    assert (await flow.view(id)).reason == "channel_off"


async def test_a_request_for_a_channel_that_is_not_configured_is_refused(flow: Flow) -> None:
    without(flow, Channel.SMS, Channel.PUSH)
    assert await refused(flow, content=TEXT) == ("channel_not_configured", "$.content.sms")
    assert await refused(flow, content=MAIL | TEXT) == ("channel_not_configured", "$.content.sms")
    assert await refused(flow, content=MAIL | TEXT, channels=["email", "sms"]) == (
        "channel_not_configured",
        "$.channels[1]",
    )


async def test_a_template_is_sent_on_its_configured_channels(flow: Flow) -> None:
    without(flow, Channel.SMS)
    contents = {"en": Content(email=EmailContent("{{ n }}", text="{{ n }}"), sms=SmsContent("{{ n }}"))}
    await flow.template("both", contents, n=Variable())
    id = await flow.accept(to={"user_id": "ada"}, template="both", data={"n": "1"})
    await flow.settle()
    assert [delivery.channel for delivery in (await flow.view(id)).deliveries] == [Channel.EMAIL]
    await flow.template("text", {"en": Content(sms=SmsContent("{{ n }}"))}, n=Variable())
    assert await refused(flow, template="text", data={"n": "1"}) == ("channel_not_configured", "$.template")
    assert (await flow.store.history.get(TENANT, id)) is not None
