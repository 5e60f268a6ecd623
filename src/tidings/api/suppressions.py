"""The suppression list: addresses that must not be used any more."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Annotated

import msgspec
from fastapi import APIRouter, Body, Path, Response
from pydantic import Field

from tidings.api.calls import Call, Caller, Cursor, Limit, Shape, StrictRoute, operation
from tidings.api.preferences import ChannelName
from tidings.model.errors import Invalid, NotFound
from tidings.model.tenant import Scope
from tidings.model.user import Address, Suppression
from tidings.model.vocabulary import Channel
from tidings.policy import addresses
from tidings.report.notifications import rfc3339

router = APIRouter(prefix="/v1/suppressions", tags=["Suppressions"], route_class=StrictRoute)

_LISTING = "suppressions"
_REASON = r"^[a-z][a-z0-9_]{0,63}$"
_EXAMPLE = {"channel": "email", "address": "gone@example.com", "reason": "bounced"}


class SuppressionRequest(Shape):
    """An address that must not be used any more."""

    channel: ChannelName
    address: str = Field(min_length=1, description="an email address, a phone number in E.164 or a device token")
    reason: str = Field(default="by_hand", pattern=_REASON, description="the reason, in one word", examples=["bounced"])


class SuppressionAnswer(Shape):
    """An address on the suppression list."""

    channel: Channel
    address: str
    reason: str
    at: str = Field(description="since when: RFC 3339, UTC")


class SuppressionPage(Shape):
    """Addresses, sorted by channel and value. `next` is the cursor of the following page, null at the end."""

    suppressions: list[SuppressionAnswer]
    next: str | None


@router.get("", **operation(Scope.READ, "List the suppressed addresses"))
async def list_suppressions(call: Caller, cursor: Cursor = None, limit: Limit = None) -> SuppressionPage:
    """Addresses that bounced, are unregistered, or whose owner opted out at the vendor."""
    after = call.position(_LISTING, cursor, _address_of)
    size = call.page(limit)
    suppressions = await call.services.users.suppressions(call.tenant, after, size + 1)
    has_more = len(suppressions) > size
    position = msgspec.json.encode(suppressions[size - 1].address).decode() if has_more else None
    return SuppressionPage(
        suppressions=[_answer(suppression) for suppression in suppressions[:size]],
        next=call.cursor(_LISTING, position),
    )


@router.post("", **operation(Scope.MANAGE, "Suppress an address", body=_EXAMPLE, status=201))
async def add_suppression(call: Caller, suppression: Annotated[SuppressionRequest, Body()]) -> SuppressionAnswer:
    """Put the address on the list: nothing is sent to it. An address on the list already keeps its first reason."""
    address = _address(suppression.channel, suppression.address, "$.address")
    stored = Suppression(call.tenant, address, suppression.reason, call.now)
    await call.services.users.suppress([stored])
    return _answer(stored)


@router.delete(
    "/{channel}/{address:path}",
    response_class=Response,
    **operation(
        Scope.MANAGE,
        "Use an address again",
        before=["suppression"],
        status=204,
        channel="email",
        address="gone@example.com",
    ),
)
async def remove_suppression(
    call: Caller,
    channel: Annotated[Channel, Path(examples=["email"])],
    address: Annotated[str, Path(max_length=4096, description="percent-encoded", examples=["gone@example.com"])],
) -> None:
    """Take the address off the list: the person came back, or the bounce was a mistake."""
    if not await _remove(call, channel, address):
        raise NotFound(f"suppressed {channel.value} address", address)


def _address_of(position: str) -> Address:
    """The address in a cursor's position. Raises ValueError if there is none."""
    address = msgspec.json.decode(position, type=Address)
    if "\0" in address.value or not address.value:
        raise ValueError("this is no address")
    address.value.encode()  # raises ValueError for a lone surrogate
    return address


async def _remove(call: Call, channel: Channel, text: str) -> bool:
    """Remove the address, normalised as today's checks do or exactly as given; whether it was on the list."""
    with contextlib.suppress(Invalid):
        if await call.services.users.unsuppress(call.tenant, _address(channel, text, "$")):
            return True
    return await call.services.users.unsuppress(call.tenant, Address(channel, text))


_CHECKS: dict[Channel, Callable[[str, str], str]] = {
    Channel.EMAIL: addresses.email,
    Channel.SMS: addresses.phone,
    Channel.PUSH: addresses.device,
}


def _address(channel: Channel, text: str, path: str) -> Address:
    check = _CHECKS.get(channel)
    if check is None:
        raise Invalid(
            "no_such_channel",
            f"only addresses of {', '.join(_CHECKS)} can be suppressed; use an opt-out for other channels",
            "$.channel",
        )
    return addresses.identity(Address(channel, check(text, path)))


def _answer(suppression: Suppression) -> SuppressionAnswer:
    return SuppressionAnswer(
        channel=suppression.address.channel,
        address=suppression.address.value,
        reason=suppression.reason,
        at=rfc3339(suppression.at),
    )
