from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidings.model.errors import BadId
from tidings.model.ids import (
    bucket_of,
    delivery_id,
    from_text,
    instant_of,
    new_id,
    notification_of,
    slot_of,
    stable_bucket,
    to_text,
)

instants = st.integers(0, 2**48 - 1)
buckets = st.integers(0, 4095)
bits = st.integers(0, 2**64)
slots = st.integers(1, 255)


@given(instants, buckets, bits, slots)
def test_an_id_tells_its_instant_bucket_and_slot(now: int, bucket: int, randomness: int, slot: int) -> None:
    notification = new_id(now, bucket, randomness)
    delivery = delivery_id(notification, slot)
    assert (notification.version, notification.variant) == (7, "specified in RFC 4122")
    assert instant_of(delivery) == instant_of(notification) == now
    assert bucket_of(delivery) == bucket_of(notification) == bucket
    assert (slot_of(notification), slot_of(delivery)) == (0, slot)
    assert notification_of(delivery) == notification
    assert notification < delivery < new_id(now + 1, bucket, randomness) if now < 2**48 - 1 else True


@given(instants, buckets, bits)
def test_text_and_back(now: int, bucket: int, randomness: int) -> None:
    id = new_id(now, bucket, randomness)
    text = to_text("ntf", id)
    assert len(text) == 30
    assert from_text("ntf", text) == id


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ntf",
        "ntf_",
        "dlv_01h455vb4pex5vsknk084sn02q",
        "ntf_01h455vb4pex5vsknk084sn02",
        "ntf_01h455vb4pex5vsknk084sn02U",
        "ntf_zzzzzzzzzzzzzzzzzzzzzzzzzz",
        "ntf_01H455VB4PEX5VSKNK084SN02Q",
        "ntf_01h455vb4pex5vsknk084sn0\n2",
    ],
)
def test_a_text_that_is_no_id_is_refused(text: str) -> None:
    with pytest.raises(BadId):
        from_text("ntf", text)


def test_the_text_follows_the_typeid_specification() -> None:
    # The example of the TypeID specification 0.3: 0188bac7-4afa-78aa-bc3b-bd1eef28d881.
    assert from_text("ntf", "ntf_01h2xcejqtf2nbrexx3vqjhp41").hex == "0188bac74afa78aabc3bbd1eef28d881"


def test_the_bucket_of_a_user_never_changes() -> None:
    # Data on disk depends on these values: they may never change.
    assert [stable_bucket("shop", user) for user in ("ada", "eve", "名前")] == [1826, 3615, 3844]


@given(st.text(), st.text())
def test_buckets_are_in_range(tenant: str, user: str) -> None:
    assert 0 <= stable_bucket(tenant, user) < 4096
