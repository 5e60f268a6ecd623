"""Who a delivery is for, and where that person is reached now: asked at the moment of sending.

Between accepting and sending lie seconds or weeks. By then the person may have another address, a device may be
somebody else's, and the user may have been deleted and created anew, for somebody else. A delivery to an inline
recipient goes where its sender said, whatever has changed.
"""

from __future__ import annotations

from msgspec.structs import replace

from tidings.model.delivery import Delivery
from tidings.model.user import Address, Profile
from tidings.model.vocabulary import Channel
from tidings.policy.addresses import identity


def present_address(address: Address, user_id: str, profile: Profile) -> Address | None:
    """The address of the user that is to be used for `address` now; None when the user has none.

    Of email addresses, phone numbers and inboxes a person has one each, so the present one takes the place of a former
    one. Devices are many, and each has its own delivery: one that is gone has no successor.
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
    """Whether the delivery's address is still the person's, in whatever spelling. `profile` is the present one."""
    if delivery.user_id is None:
        return True
    present = present_address(delivery.address, delivery.user_id, profile)
    if present is delivery.address:
        return True
    return present is not None and identity(present) == identity(delivery.address)


def is_meant(incarnation: int | None, present: int | None) -> bool:
    """Whether the user of the id is still the one of `incarnation`; `present` is that of whoever has the id now.

    None was not looked up: then it is meant for whoever has the id.
    """
    return incarnation is None or present is None or incarnation == present


def aimed(delivery: Delivery, profile: Profile | None, incarnation: int | None) -> Delivery:
    """The delivery at the person's present address and under their present name; as it is where there is neither.

    `profile` and `incarnation` are those of the user who has the id now (None: no such user). What some provider may
    have taken is not aimed anew: it may be at the former address already.
    """
    if delivery.user_id is None or profile is None or not is_meant(delivery.incarnation, incarnation):
        return delivery
    present = present_address(delivery.address, delivery.user_id, profile) or delivery.address
    if delivery.doubtful:
        present = delivery.address
    if present is delivery.address and profile.name == delivery.name and incarnation == delivery.incarnation:
        return delivery
    return replace(delivery, address=present, name=profile.name, incarnation=incarnation)
