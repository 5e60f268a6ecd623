from __future__ import annotations

import pytest
from confluent_kafka import Message

from tidings.backends.kafka.ledger import Ledger
from tidings.backends.kafka.progress import Progress
from tidings.model.errors import LeaseLost


def message(partition: int, offset: int, key: bytes | None = b"k", headers: object = None) -> Message:
    return Message("t", partition, offset, key, b"%d" % offset, headers)  # type: ignore[arg-type]


def assigned(*numbers: int) -> Ledger:
    ledger = Ledger()
    for number in numbers:
        ledger.assign(number, Progress())
    return ledger


def filled(count: int, *numbers: int) -> Ledger:
    ledger = assigned(*numbers)
    ledger.arrive([message(number, offset) for number in numbers for offset in range(count)])
    return ledger


def committed(ledger: Ledger) -> dict[int, tuple[int, str]]:
    return {number: (base, text) for number, base, text in ledger.snapshot()}


def test_items_of_other_producers_are_readable() -> None:
    ledger = assigned(0)
    ledger.arrive([message(0, 5, None), message(0, 6, b"\xff"), message(0, 7, b"k", [("a", b"\xff"), ("b", None)])])
    items = ledger.take(10, None).items
    assert [item.key for item in items] == ["", "\ufffd", "k"]
    assert dict(items[2].headers) == {"a": "\ufffd", "b": ""}


def test_items_of_a_partition_of_another_client_are_ignored() -> None:
    ledger = assigned(0)
    ledger.arrive([message(1, 0)])
    assert not ledger.waiting


def test_only_begun_items_are_announced() -> None:
    ledger = filled(4, 0)
    unleased = ledger.take(2, None)
    leased = ledger.take(2, 60.0)
    assert not ledger.dirty
    ledger.begin(leased, [1], 0.0)
    assert committed(ledger) == {0: (0, "b=3+1;d=")}
    ledger.end(leased, 0.0)
    ledger.finish(leased)
    assert committed(ledger) == {0: (0, "b=;d=2+2")}
    ledger.end(unleased, 0.0)
    ledger.finish(unleased)
    assert committed(ledger) == {0: (4, "b=;d=")}
    assert committed(ledger) == {}


def test_a_failed_commit_is_made_again() -> None:
    ledger = filled(1, 0)
    ledger.begin(ledger.take(1, 60.0), [0], 0.0)
    first = committed(ledger)
    ledger.mark_dirty([0, 9])
    assert committed(ledger) == first


def test_an_unconfirmed_announcement_is_taken_back() -> None:
    ledger = filled(3, 0)
    batch = ledger.take(3, 60.0)
    ledger.begin(batch, [0, 2], 0.0)
    ledger.take_back(batch, [0], put=False)
    ledger.put(batch, [1], 0.0)
    assert committed(ledger) == {0: (0, "b=2+1;d=;p=1+1")}
    ledger.take_back(batch, [1], put=True)
    assert committed(ledger) == {0: (0, "b=2+1;d=")}


def test_released_items_carry_what_was_announced_about_them() -> None:
    ledger = filled(3, 0)
    batch = ledger.take(3, 60.0)
    ledger.begin(batch, [1], 0.0)
    ledger.put(batch, [2], 0.0)
    ledger.give_back(batch)
    again = ledger.take(3, 60.0)
    assert [(item.redelivered, item.repeated) for item in again.items] == [(False, False), (True, False), (False, True)]
    assert committed(ledger) == {0: (0, "b=1+1;d=;p=2+1")}
    # An earlier mark stays even if a later one is taken back.
    ledger.begin(again, [0, 1], 0.0)
    ledger.take_back(again, [0, 1], put=False)
    assert committed(ledger) == {0: (0, "b=1+1;d=;p=2+1")}
    with pytest.raises(LeaseLost):
        ledger.end(batch, 0.0)


def test_the_announcements_of_a_killed_client_are_read_by_the_next_one() -> None:
    ledger = Ledger()
    ledger.assign(0, Progress(10, "b=1+2;d=4+1;p=3+1;n=later versions may say more"))
    ledger.arrive([message(0, offset) for offset in range(10, 16)])
    read = [(int(item.body), item.redelivered, item.repeated) for item in ledger.take(10, None).items]
    assert read == [(10, False, False), (11, True, False), (12, True, False), (13, False, True), (15, False, False)]


def test_an_overdue_batch_is_lost_and_its_begun_items_are_marked() -> None:
    ledger = filled(2, 0)
    batch = ledger.take(2, 60.0)
    ledger.begin(batch, [1], 0.0)
    batch.deadline = 100.0
    ledger.expire(99.9)
    assert not ledger.waiting
    ledger.expire(100.0)
    assert [item.redelivered for item in ledger.take(2, None).items] == [False, True]
    with pytest.raises(LeaseLost):
        ledger.end(batch, 100.0)
    with pytest.raises(LeaseLost):
        ledger.begin(batch, [0], 100.0)


def test_a_batch_that_is_being_ended_does_not_run_out() -> None:
    ledger = filled(1, 0)
    batch = ledger.take(1, 60.0)
    batch.deadline = 100.0
    ledger.end(batch, 99.0)
    ledger.expire(200.0)
    assert not ledger.waiting
    ledger.finish(batch)
    assert committed(ledger) == {0: (1, "b=;d=")}


def test_ending_may_be_tried_again_after_it_failed() -> None:
    ledger = filled(1, 0)
    batch = ledger.take(1, None)
    ledger.end(batch, 0.0)
    with pytest.raises(LeaseLost):
        ledger.end(batch, 0.0)
    ledger.reopen(batch)
    ledger.end(batch, 0.0)


def test_a_lost_partition_fences_the_claims_over_it_and_keeps_the_rest() -> None:
    ledger = filled(2, 0, 1)
    batch = ledger.take(3, 60.0)
    ledger.begin(batch, [0, 2], 0.0)
    assert ledger.busy({0})
    ledger.revoke([0])
    with pytest.raises(LeaseLost):
        ledger.end(batch, 0.0)
    again = ledger.take(10, None)
    assert {partition.number for partition in again.partitions} == {1}
    assert [item.redelivered for item in again.items] == [True, False]
    assert not ledger.busy({0})


def test_a_partition_lost_while_a_batch_ends_is_no_longer_committed() -> None:
    ledger = filled(2, 0, 1)
    batch = ledger.take(4, 60.0)
    ledger.end(batch, 0.0)
    ledger.revoke([0])
    ledger.finish(batch, released=[0, 3])
    assert committed(ledger) == {1: (1, "b=;d=")}
    assert [offset for _, offset, _ in ledger.waiting] == [1]


def test_without_a_consumer_the_client_owns_nothing() -> None:
    ledger = filled(2, 0, 1)
    batch = ledger.take(1, None)
    ledger.revoke_all()
    assert not ledger.waiting
    with pytest.raises(LeaseLost):
        ledger.end(batch, 0.0)
    assert committed(ledger) == {}


def test_a_cut_log_drops_waiting_items_and_ends_claims() -> None:
    ledger = filled(6, 0, 1)
    held = ledger.take(4, 60.0)
    committed(ledger)
    ledger.restart(0, Progress.unknown(0, 2))
    assert committed(ledger)[0] == (0, "b=0+2;d=")
    with pytest.raises(LeaseLost):
        ledger.end(held, 0.0)
    ledger.arrive([message(0, offset) for offset in range(4)])
    marks = {(entry[0].number, entry[1]): entry[2].redelivered for entry in ledger.waiting}
    assert {offset: mark for (number, offset), mark in marks.items() if number == 0} == {
        0: True, 1: True, 2: False, 3: False,
    }  # fmt: skip
