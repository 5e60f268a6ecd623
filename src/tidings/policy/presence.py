"""Whom a delivery is for, and where that user is reached now. `deliver` asks just before each send.

Seconds or weeks lie between accepting and sending. In that time the user may get another address, a device may pass to
somebody else, and the user may be deleted and their id given to another person. A delivery to an inline recipient
always goes where its sender said.
"""

from __future__ import annotations

from msgspec.structs import replace

from tidings.model.delivery import Delivery
from tidings.model.user import Address, Profile
from tidings.model.vocabulary import Channel
from tidings.policy.addresses import identity


def present_address(address: Address, user_id: str, profile: Profile) -> Address | None:
    """The user's present address in place of `address`; None when the user has none.

    A user has one email address, one phone number and one inbox, so the present one replaces a former one. A user may
    have many devices, each with its own delivery, so a device that is gone has no successor.
    """
    match address.channel:
        case Channel.EMAIL:
            value = profile.email
        case Channel.SMS:
            value = profile.phone
        case Channel.PUSH:
            value = address.value if address.value in profile.devices else None
        case Channel.INAPP:
            value = user_id
    if not value:
        return None
    return address if value == address.value else Address(address.channel, value)


def is_present(delivery: Delivery, profile: Profile) -> bool:
    """Whether the delivery's address is still the user's, in any spelling. `profile` is the user's present one."""
    if delivery.user_id is None:
        return True
    present = present_address(delivery.address, delivery.user_id, profile)
    if present is delivery.address:
        return True
    return present is not None and identity(present) == identity(delivery.address)


def is_meant(incarnation: int | None, present: int | None) -> bool:
    """Whether a notification for the user of `incarnation` is meant for the user who has the id now, of `present`.

    An incarnation that is None was not looked up: then the notification is for whoever has the id.
    """
    return incarnation is None or present is None or incarnation == present


def aimed(delivery: Delivery, profile: Profile | None, incarnation: int | None) -> Delivery:
    """The delivery with the user's present address, name and incarnation; unchanged if the user is gone or another one.

    `profile` and `incarnation` belong to the user who has the id now (None: no such user). A doubtful delivery keeps
    its address, because it may have arrived there already.
    """
    if delivery.user_id is None or profile is None or not is_meant(delivery.incarnation, incarnation):
        return delivery
    present = present_address(delivery.address, delivery.user_id, profile) or delivery.address
    if delivery.doubtful:
        present = delivery.address
    if present is delivery.address and profile.name == delivery.name and incarnation == delivery.incarnation:
        return delivery
    return replace(delivery, address=present, name=profile.name, incarnation=incarnation)
