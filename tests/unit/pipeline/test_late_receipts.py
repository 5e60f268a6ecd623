"""All stages over the memory adapters: a vendor's receipt that comes after its delivery was sent."""

from __future__ import annotations

import pytest

from support.flow import MAIL, TENANT, Flow
from tidings.model.ids import delivery_id
from tidings.model.sending import NAMELESS, Receipt, Sent, Uncertain
from tidings.model.vocabulary import Channel, State


@pytest.mark.parametrize("said", [State.SENT, State.DELIVERED, State.FAILED])
async def test_a_late_receipt_resolves_an_uncertain_delivery(flow: Flow, said: State) -> None:
    await flow.user()
    flow.provider(Channel.EMAIL).answers = lambda _: Uncertain("no_answer")
    id = await flow.accept(to={"user_id": "ada"}, content=MAIL)
    await flow.settle()
    receipt = Receipt(delivery_id(id, 1), TENANT, said, said.value)
    assert await flow.receive(Channel.EMAIL, receipt) == 1
    await flow.settle()
    seen = await flow.view(id)
    assert seen.state is said
    assert [entry.state for entry in seen.timeline].count(State.UNCERTAIN) == 1


@pytest.mark.parametrize("kind", ["bounced", "blocked"])
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
async def test_mail_that_comes_back_after_it_was_delivered_has_failed(
    flow: Flow, order: tuple[int, int], kind: str
) -> None:
    await flow.user()
    id = await flow.accept(to={"user_id": "ada"}, content=MAIL)
    await flow.settle()
    receipts = [
        Receipt(delivery_id(id, 1), TENANT, State.DELIVERED, "delivered"),
        Receipt(delivery_id(id, 1), TENANT, State.FAILED, kind, reason="mailbox_full", detail="552 full"),
    ]
    for place in order:
        await flow.receive(Channel.EMAIL, receipts[place])
        await flow.settle()
    seen = await flow.view(id)
    assert (seen.state, seen.reason) == (State.FAILED, "mailbox_full")
    assert {entry.state for entry in seen.timeline} >= {State.SENT, State.DELIVERED, State.FAILED}
    assert {entry.attempt for entry in seen.timeline} == {0, 1}
    [attempt] = seen.deliveries[0].attempts
    assert (attempt.number, attempt.state, attempt.reason) == (1, State.FAILED, "mailbox_full")


@pytest.mark.parametrize(
    ("reference", "address", "is_found"),
    [
        ("ref", "ada@example.com", True),
        ("ref", None, True),
        ("", "ADA@example.com", True),
        ("", "bob@example.com", False),
        ("foreign", "ada@example.com", False),
    ],
)
async def test_a_receipt_that_names_no_delivery_is_matched(
    flow: Flow, reference: str, address: str | None, is_found: bool
) -> None:
    await flow.user()
    flow.provider(Channel.EMAIL).answers = lambda _: Sent("ref")
    id = await flow.accept(to={"user_id": "ada"}, content=MAIL)
    await flow.settle()
    nameless = Receipt(NAMELESS, "", State.FAILED, "bounced", reference=reference, address=address, suppress=True)
    assert await flow.receive(Channel.EMAIL, nameless) == int(is_found)
    await flow.settle()
    assert (await flow.view(id)).state is (State.FAILED if is_found else State.SENT)


async def test_a_receipt_whose_address_matches_two_deliveries_is_left_out(flow: Flow) -> None:
    await flow.user()
    ids = [await flow.accept(to={"user_id": "ada"}, content=MAIL) for _ in range(2)]
    await flow.settle()
    nameless = Receipt(NAMELESS, "", State.FAILED, "bounced", address="ada@example.com", suppress=True)
    assert await flow.receive(Channel.EMAIL, nameless) == 0
    await flow.settle()
    assert [(await flow.view(id)).state for id in ids] == [State.SENT, State.SENT]


@pytest.mark.parametrize("kind", ["complained", "unsubscribed"])
async def test_an_address_that_complains_after_the_delivery_is_suppressed(flow: Flow, kind: str) -> None:
    await flow.user()
    first = await flow.accept(to={"user_id": "ada"}, content=MAIL)
    await flow.settle()
    address = "ada@example.com"
    for receipt in (
        Receipt(delivery_id(first, 1), TENANT, State.DELIVERED, "delivered"),
        Receipt(delivery_id(first, 1), TENANT, State.DELIVERED, kind, address=address, suppress=True),
    ):
        await flow.receive(Channel.EMAIL, receipt)
    await flow.settle()
    second = await flow.accept(to={"user_id": "ada"}, content=MAIL)
    await flow.settle()
    assert (await flow.view(first)).state is State.DELIVERED
    assert (await flow.view(second)).reason == "address_suppressed"
