from __future__ import annotations

import pytest

from tidings.model.errors import Invalid
from tidings.sandbox.faults import KINDS, Fault, Faults, Kind, Vendor


def test_every_kind_is_explained() -> None:
    assert set(KINDS) == set(Kind)


def test_nothing_happens_unasked() -> None:
    faults = Faults()
    assert faults.on_request(Vendor.TWILIO, ["+34600000001"]) is None
    assert faults.later(Vendor.TWILIO, "+34600000001") is None


def test_a_count_ends_it() -> None:
    faults = Faults()
    faults.add(Fault(vendor=Vendor.TWILIO, kind=Kind.STATUS, status=429, count=2))
    hits = [faults.on_request(Vendor.TWILIO) for _ in range(4)]
    assert [hit is not None for hit in hits] == [True, True, False, False]
    assert faults.all() == []


def test_it_hits_its_vendor_and_recipients_alone() -> None:
    faults = Faults()
    fault = faults.add(Fault(vendor=Vendor.SENDGRID, kind=Kind.BOUNCE, recipient="ana@"))
    assert faults.later(Vendor.SENDGRID, "ana@example.com") is fault
    assert faults.later(Vendor.SENDGRID, "bo@example.com") is None
    assert faults.later(Vendor.SMTP, "ana@example.com") is None
    assert faults.on_request(Vendor.SENDGRID, ["ana@example.com"]) is None
    assert fault.hits == 1


def test_one_of_the_recipients_is_enough_for_a_request() -> None:
    faults = Faults()
    faults.add(Fault(vendor=Vendor.SENDGRID, kind=Kind.RESET, recipient="ana@"))
    assert faults.on_request(Vendor.SENDGRID, ["bo@example.com", "ana@example.com"]) is not None


def test_chance_is_repeatable() -> None:
    def draw(seed: int) -> list[bool]:
        faults = Faults(seed)
        faults.add(Fault(vendor=Vendor.FCM, kind=Kind.STATUS, probability=0.3))
        return [faults.on_request(Vendor.FCM) is not None for _ in range(1000)]

    assert draw(7) == draw(7)
    assert 240 < sum(draw(7)) < 360


def test_they_are_removed_by_id_or_all() -> None:
    faults = Faults()
    first = faults.add(Fault(vendor=Vendor.FCM, kind=Kind.STATUS))
    faults.add(Fault(vendor=Vendor.FCM, kind=Kind.HANG))
    faults.add(Fault(vendor=Vendor.FCM, kind=Kind.RESET))
    assert faults.remove(first.id) == 1
    assert faults.remove("fault-99") == 0
    assert faults.remove() == 2


@pytest.mark.parametrize(
    ("fault", "path"),
    [
        (Fault(vendor=Vendor.FCM, kind=Kind.BOUNCE), "$.vendor"),
        (Fault(vendor=Vendor.TWILIO, kind=Kind.UNREGISTERED), "$.vendor"),
        (Fault(vendor=Vendor.FCM, kind=Kind.RECEIPT_LOST), "$.vendor"),
        (Fault(vendor=Vendor.FCM, kind=Kind.STATUS, probability=0), "$.probability"),
        (Fault(vendor=Vendor.FCM, kind=Kind.STATUS, probability=1.5), "$.probability"),
        (Fault(vendor=Vendor.FCM, kind=Kind.STATUS, count=0), "$.count"),
        (Fault(vendor=Vendor.FCM, kind=Kind.STATUS, status=200), "$.status"),
        (Fault(vendor=Vendor.FCM, kind=Kind.HANG, seconds=-1), "$.seconds"),
    ],
)
def test_faults_that_cannot_be_played_are_refused(fault: Fault, path: str) -> None:
    with pytest.raises(Invalid) as refused:
        Faults().add(fault)
    assert refused.value.path == path
