"""Vendors may answer anything: a bad answer affects its own delivery at most."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from support.flow import TENANT, Flow, Recorder
from tidings.model.ids import new_id, notification_of
from tidings.model.outcome import Outcome
from tidings.model.sending import About, AnyDelivery, Receipt, Rejected, Retry, SendResult, Sent, Uncertain
from tidings.model.texts import fit
from tidings.model.user import Address
from tidings.model.vocabulary import Channel, State
from tidings.model.wire import decode_outcomes
from tidings.pipeline.runtime.packs import LARGEST_PACK_BYTES, pack
from tidings.policy.fitting import MOST_DETAIL, fitting
from tidings.ports.queue import Item

LONE, NUL, LONG = "a\ud800b", "a\0b", "x" * 1_000_000


@pytest.mark.parametrize(
    ("text", "fitted"),
    [
        ("", ""),
        ("Zoë 🎉", "Zoë 🎉"),
        (LONE, "a\ufffdb"),
        ("\udfff", "\ufffd"),
        (NUL, "a\ufffdb"),
        ("é\0", "é\ufffd"),
        ("x" * 20, "x" * 20),
        ("x" * 21, "x" * 19 + "…"),
        (7, "7"),
        (None, "None"),
    ],
)
def test_texts_that_can_be_stored(text: object, fitted: str) -> None:
    assert fit(text, 20) == fitted
    fitted.encode()


@pytest.mark.parametrize("text", [LONE, NUL, LONG, 7, None, b"\xff"])
def test_results_can_be_recorded(text: Any) -> None:
    results = [Sent(text), Retry(text, 3.0, text), Rejected(text, detail=text), Uncertain(text, text)]
    for result in fitting(results):
        for field in ("reference", "reason", "detail"):
            value = getattr(result, field, "")
            assert isinstance(value, str)
            assert "\0" not in value
            assert len(value.encode()) <= 4 * MOST_DETAIL


def test_valid_results_are_not_changed() -> None:
    sent = Sent("SM123")
    assert fitting([sent])[0] is sent
    asked = [Retry("throttled", 3), Retry("throttled", float("inf")), Rejected("no", suppress=True, fallback=True)]
    assert fitting(asked) == asked


@pytest.mark.parametrize("result", [None, "sent", 202, {"reference": "x"}, Exception("x"), Sent])
def test_a_value_that_is_no_result_becomes_uncertain(result: object) -> None:
    [fitted] = fitting([result])
    assert isinstance(fitted, Uncertain)
    assert fitted.reason == "provider_error"
    assert repr(result)[:20] in fitted.detail


@pytest.mark.parametrize("after", ["3", [], True, {}])
def test_a_wait_that_is_no_number_is_ignored(after: Any) -> None:
    assert fitting([Retry("throttled", after)]) == [Retry("throttled")]


def test_a_reference_that_is_cut_does_not_change_whether_it_arrived() -> None:
    for delivered in (True, False):
        [fitted] = fitting([Sent(LONG, delivered)])
        assert isinstance(fitted, Sent)
        assert fitted.delivered is delivered
    assert fitting([Sent("SM123", 1)]) == [Sent("SM123", True)]  # type: ignore[arg-type]


@pytest.mark.parametrize("about", [*About, None])
def test_whom_a_retry_is_about_is_kept(about: About | None) -> None:
    assert fitting([Retry("throttled", about=about)]) == [Retry("throttled", about=about)]


@pytest.mark.parametrize("about", ["everybody", 7, True])
def test_a_retry_about_nobody_we_know_is_about_what_its_reason_says(about: Any) -> None:
    assert fitting([Retry("throttled", about=about)]) == [Retry("throttled")]


def test_what_to_do_after_a_rejection_is_yes_or_no() -> None:
    unsure: Any = "perhaps"
    [fitted] = fitting([Rejected("no", suppress=unsure, fallback=unsure)])
    assert isinstance(fitted, Rejected)
    assert (fitted.suppress, fitted.fallback) == (True, True)
    assert (type(fitted.suppress), type(fitted.fallback)) == (bool, bool)


@pytest.mark.parametrize(
    "bad",
    [
        Sent(LONE),
        Sent(NUL),
        Sent(LONG),
        Sent(7),  # type: ignore[arg-type]
        Retry("mailbox_busy", "soon", LONE),  # type: ignore[arg-type]
        Rejected(LONE, detail=NUL),
        Uncertain(LONG, LONE),
        None,
        "a text",
    ],
    ids=lambda value: type(value).__name__,
)
async def test_a_bad_answer_does_not_affect_the_others(flow: Flow, bad: Any) -> None:
    provider = Recorder("sms-one", Channel.SMS)
    provider.batch_size = 50
    flow.providers[Channel.SMS] = [provider]
    ids = [
        await flow.accept(to={"phone": f"+4915123456{number:03d}"}, content={"sms": {"text": "x"}})
        for number in range(100)
    ]

    def answers(outbound: AnyDelivery) -> SendResult:
        return bad if notification_of(outbound.id) == ids[30] else Sent("ok")

    provider.answers = answers
    await flow.settle()
    states = [(await flow.view(id)).state for id in ids]
    assert [state for place, state in enumerate(states) if place != 30] == [State.SENT] * 99
    assert [name async for name in flow.objects.list("aside/")] == []


def facts(items: list[Item]) -> list[Outcome]:
    for item in items:
        assert len(item.body) <= LARGEST_PACK_BYTES
    return [fact for item in items for fact in decode_outcomes(item.body)]


@pytest.mark.parametrize("field", ["reason", "provider", "reference", "detail", "tenant"])
def test_a_fact_that_cannot_be_encoded_does_not_spoil_its_pack(field: str) -> None:
    good = [Outcome(new_id(1, 1, number), TENANT, 1, State.SENT, 1) for number in range(450)]
    bad = msgspec.structs.replace(good[123], **{field: LONE})
    recorded = facts(pack([*good[:123], bad, *good[124:]]))
    assert [fact.id for fact in recorded] == [fact.id for fact in good]
    assert getattr(recorded[123], field) == "a\ufffdb"
    assert [fact for place, fact in enumerate(recorded) if place != 123] == [*good[:123], *good[124:]]


def test_a_fact_that_cannot_be_encoded_is_reduced_to_the_bare_fact() -> None:
    good = Outcome(new_id(1, 1, 1), TENANT, 1, State.SENT, 1)
    bad = msgspec.structs.replace(good, id=new_id(1, 1, 2), address=Address(Channel.SMS, 1 << 80))  # type: ignore[arg-type]
    worse = msgspec.structs.replace(good, id=new_id(1, 1, 3), wait=object())
    recorded = facts(pack([good, bad, worse]))
    assert [(fact.id, fact.state, fact.attempt) for fact in recorded] == [
        (fact.id, State.SENT, 1) for fact in (good, bad, worse)
    ]


async def test_many_receipts_of_anything_are_packed_and_recorded(flow: Flow) -> None:
    await flow.user()
    id = await flow.accept(to={"user_id": "ada"}, content={"sms": {"text": "x"}}, channels=["sms"])
    await flow.settle()
    [delivery] = [fact.id for fact in (await flow.store.history.get(TENANT, id)).events if fact.state is State.SENT]  # type: ignore[union-attr]
    receipts = [
        Receipt(delivery, TENANT, State.SENT, LONE, 1 << 70, detail="x" * 3_000, reference=NUL) for _ in range(2_000)
    ]
    receipts.append(Receipt(delivery, TENANT, State.DELIVERED, "delivered", detail=LONE))
    puts: list[Item] = []
    put = flow.queue.put

    async def noted(items: Any) -> None:
        puts.extend(items)
        await put(items)

    flow.queue.put = noted  # type: ignore[method-assign]
    assert await flow.receive(Channel.SMS, *receipts) == 2_001
    assert len(facts(puts)) == 2_001
    await flow.settle()
    assert (await flow.view(id)).state is State.DELIVERED
