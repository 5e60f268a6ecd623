"""Whose address it is, and who has the user id, at the moment of sending."""

from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from support import routing
from support.deliveries import make_delivery
from support.routing import NOTHING_SUPPRESSED, Suppressed
from tidings.model.delivery import Delivery
from tidings.model.ids import delivery_id
from tidings.model.user import Address, Category, Preferences, Profile
from tidings.model.vocabulary import Channel, Reason, State
from tidings.policy.presence import aimed, is_meant, is_present, present_address
from tidings.policy.routing import FIRST_SLOT, GO, Stop

NOW = 1_800_000_000_000
ADA = Profile(email="ada@example.com", phone="+4930901820", devices=("one", "two"), name="Ada")


def delivery(channel: Channel, value: str, user_id: str | None = "ada") -> Delivery:
    return make_delivery(
        id=delivery_id(UUID(int=NOW << 80), FIRST_SLOT[channel]),
        user_id=user_id,
        key=f"shop/{user_id or value}",
        address=Address(channel, value),
        category="news",
        name="Ada",
        incarnation=7,
    )


def verdict(
    sent: Delivery,
    profile: Profile | None,
    incarnation: int | None = 7,
    suppressed: Suppressed = NOTHING_SUPPRESSED,
) -> object:
    """The gate's verdict on the delivery after it was aimed at the present address."""
    present = aimed(sent, profile, incarnation)
    return routing.verdict(
        present, profile, Preferences(), Category("news"), NOW, suppressed=suppressed, incarnation=incarnation
    )


@pytest.mark.parametrize(
    ("channel", "former", "present"),
    [(Channel.EMAIL, "old@example.com", "ada@example.com"), (Channel.SMS, "+14155552671", "+4930901820")],
)
def test_a_new_address_takes_the_place_of_the_former_one(channel: Channel, former: str, present: str) -> None:
    result = aimed(delivery(channel, former), ADA, 7)
    assert result == replace(delivery(channel, former), address=Address(channel, present))
    assert verdict(delivery(channel, former), ADA) is GO


@pytest.mark.parametrize(
    ("channel", "value"), [(Channel.EMAIL, "ada@example.com"), (Channel.SMS, "+4930901820"), (Channel.PUSH, "one")]
)
def test_an_address_that_is_gone_gets_nothing(channel: Channel, value: str) -> None:
    assert verdict(delivery(channel, value), ADA) is GO
    assert verdict(delivery(channel, value), Profile()) == Stop(State.SUPPRESSED, Reason.ADDRESS_CHANGED)


def test_a_device_that_is_gone_has_no_successor() -> None:
    changed = replace(ADA, devices=("two", "three"))
    assert verdict(delivery(Channel.PUSH, "one"), changed) == Stop(State.SUPPRESSED, Reason.ADDRESS_CHANGED)
    assert verdict(delivery(Channel.PUSH, "two"), changed) is GO


def test_a_device_that_its_vendor_disowned_is_suppressed_and_not_changed() -> None:
    """The device left the profile because it went onto the suppression list: the user has changed nothing."""
    listed = {("shop", Address(Channel.PUSH, "one")): "unregistered"}
    left = replace(ADA, devices=("two",))
    expected = Stop(State.SUPPRESSED, Reason.ADDRESS_SUPPRESSED, "unregistered")
    assert verdict(delivery(Channel.PUSH, "one"), left, suppressed=listed) == expected
    assert verdict(delivery(Channel.PUSH, "two"), left, suppressed=listed) is GO


def test_a_doubtful_delivery_keeps_its_former_address() -> None:
    doubtful = replace(delivery(Channel.EMAIL, "old@example.com"), doubtful=True)
    assert aimed(doubtful, ADA, 7).address == doubtful.address
    assert verdict(doubtful, ADA) == Stop(State.SUPPRESSED, Reason.ADDRESS_CHANGED)
    spelled = replace(delivery(Channel.EMAIL, "ADA@Example.com"), doubtful=True)
    assert verdict(spelled, ADA) is GO, "another spelling is no other address"


def test_the_inbox_is_the_users_as_long_as_there_is_one() -> None:
    assert verdict(delivery(Channel.INAPP, "ada"), Profile()) is GO
    assert verdict(delivery(Channel.INAPP, "ada"), None) == Stop(State.SUPPRESSED, Reason.UNKNOWN_USER)


def test_the_name_is_the_present_one() -> None:
    assert aimed(delivery(Channel.EMAIL, "ada@example.com"), replace(ADA, name="Ada King"), 7).name == "Ada King"


def test_what_names_no_incarnation_gets_that_of_the_user_who_is_there() -> None:
    nobodys = replace(delivery(Channel.EMAIL, "ada@example.com"), incarnation=None)
    assert aimed(nobodys, ADA, 7) == replace(nobodys, incarnation=7)
    assert aimed(replace(nobodys, name="Adele"), ADA, 7) == replace(nobodys, incarnation=7)


@pytest.mark.parametrize("channel", list(Channel))
def test_the_next_user_with_the_id_gets_nothing_meant_for_the_former(channel: Channel) -> None:
    value = present_address(Address(channel, "one"), "ada", ADA)
    assert value is not None
    former = delivery(channel, value.value)
    assert verdict(former, ADA, 8) == Stop(State.SUPPRESSED, Reason.USER_DELETED)
    assert verdict(former, replace(ADA, email="eve@example.com"), 8) == Stop(State.SUPPRESSED, Reason.USER_DELETED)
    assert verdict(replace(former, incarnation=None), ADA, 8) is GO, "what an earlier version has put names nobody"


def test_incarnations() -> None:
    assert is_meant(None, 5)
    assert is_meant(5, 5)
    assert is_meant(0, 0)
    assert not is_meant(0, 5)
    assert not is_meant(5, 0)


@given(
    channel=st.sampled_from([Channel.EMAIL, Channel.SMS, Channel.PUSH]),
    value=st.sampled_from(["ada@example.com", "b@example.com", "+4930901820", "one"]),
    email=st.none() | st.sampled_from(["ada@example.com", "b@example.com"]),
    phone=st.none() | st.just("+4930901820"),
    devices=st.lists(st.sampled_from(["one", "two"]), unique=True).map(tuple),
    doubtful=st.booleans(),
)
def test_a_delivery_goes_only_to_a_present_address_of_the_user(
    channel: Channel, value: str, email: str | None, phone: str | None, devices: tuple[str, ...], doubtful: bool
) -> None:
    profile = Profile(email=email, phone=phone, devices=devices)
    present = aimed(replace(delivery(channel, value), doubtful=doubtful), profile, 7)
    mine = {(Channel.EMAIL, email), (Channel.SMS, phone), *((Channel.PUSH, token) for token in devices)}
    goes = verdict(present, profile) is GO
    assert goes == ((channel, present.address.value) in mine)
    assert goes == is_present(present, profile)
    if doubtful:
        assert present.address.value == value


@pytest.mark.parametrize("channel", [Channel.EMAIL, Channel.SMS, Channel.PUSH])
def test_an_inline_recipient_is_reached_where_the_sender_said(channel: Channel) -> None:
    inline = replace(delivery(channel, "somewhere@example.com", user_id=None), incarnation=None)
    assert aimed(inline, None, None) is inline
    assert is_present(inline, Profile())
    assert verdict(inline, None, None) is GO
