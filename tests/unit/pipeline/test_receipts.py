"""What a vendor's receipt becomes: which delivery it is about, and the fact that is recorded."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any
from uuid import UUID

import pytest

from tidings.model.errors import Unavailable
from tidings.model.sending import NAMELESS, Handed, Receipt
from tidings.model.user import Address
from tidings.model.vocabulary import Channel, State
from tidings.pipeline.accept.receipts import PROMPT_MS, matched, outcome_of
from tidings.policy.fitting import MOST_DETAIL, MOST_REASON, MOST_REFERENCE
from tidings.policy.transitions import ATTEMPTS_PER_LIFE

HOUR, DAY = 3_600_000, 86_400_000
NOW = 30 * DAY
MOST = 20 * ATTEMPTS_PER_LIFE
"""The first attempt number that no delivery has."""
DELIVERY, OTHER = UUID(int=1), UUID(int=2)


class Recorded:
    """A history that knows these facts, each with the instant at which it was recorded."""

    def __init__(self, *facts: tuple[int, Handed]) -> None:
        self.facts = facts
        self.asked: list[tuple[str, set[str], set[str], int, int]] = []
        self.answers = 9

    async def handed(
        self, provider: str, references: Collection[str], addresses: Collection[str], since: int, until: int
    ) -> Sequence[Handed]:
        if len(self.asked) == self.answers:
            raise Unavailable("away")
        self.asked.append((provider, set(references), set(addresses), since, until))
        return [
            fact
            for at, fact in self.facts
            if since <= at < until and (fact.reference in references or fact.address in addresses)
        ]


def handed(delivery: UUID = DELIVERY, reference: str = "", address: str = "ada@example.com") -> Handed:
    return Handed(delivery, "shop", 3, reference, address)


def nameless(reference: str = "", address: str | None = "ada@example.com") -> Receipt:
    return Receipt(NAMELESS, "", State.FAILED, "bounced", reference=reference, address=address)


def receipt(**more: Any) -> Receipt:
    said: dict[str, Any] = {"delivery_id": DELIVERY, "tenant": "shop", "state": State.SENT, "kind": "sent"}
    return Receipt(**(said | more))


async def found(history: Recorded, *receipts: Receipt) -> list[tuple[UUID, str, int]]:
    known = await matched(receipts, "one", history, NOW)  # type: ignore[arg-type]
    return [(one.delivery_id, one.tenant, one.attempt) for one in known]


async def test_receipts_with_a_name_need_no_history() -> None:
    history = Recorded()
    assert await found(history, receipt(attempt=2), receipt(delivery_id=OTHER)) == [
        (DELIVERY, "shop", 2),
        (OTHER, "shop", 1),
    ]
    assert history.asked == []


@pytest.mark.parametrize(
    ("age", "looks"), [(0, 1), (HOUR, 1), (HOUR + 1, 2), (DAY, 2), (DAY + 1, 3), (3 * DAY, 3), (-PROMPT_MS + 1, 1)]
)
async def test_a_reference_is_looked_for_further_back_only_while_it_is_not_found(age: int, looks: int) -> None:
    history = Recorded((NOW - age, handed(reference="r")))
    assert await found(history, nameless("r")) == [(DELIVERY, "shop", 3)]
    stretches = [(NOW - HOUR, NOW + PROMPT_MS), (NOW - DAY, NOW - HOUR), (NOW - 3 * DAY, NOW - DAY)]
    assert history.asked == [("one", {"r"}, {"ada@example.com"}, *stretch) for stretch in stretches[:looks]]


async def test_a_delivery_of_more_than_three_days_ago_is_not_looked_for() -> None:
    history = Recorded((NOW - 3 * DAY - 1, handed(reference="r")))
    assert await found(history, nameless("r"), receipt(attempt=2)) == [(DELIVERY, "shop", 2)]
    assert len(history.asked) == 3


async def test_an_address_alone_counts_only_after_the_last_look() -> None:
    history = Recorded((NOW, handed()))
    assert await found(history, nameless()) == [(DELIVERY, "shop", 3)]
    assert len(history.asked) == 3
    history = Recorded((NOW, handed()), (NOW - 2 * DAY, handed(OTHER)))
    assert await found(history, nameless()) == [], "it may be either of them"


async def test_an_address_does_not_count_before_a_reference_was_looked_for_everywhere() -> None:
    history = Recorded((NOW, handed()), (NOW - 2 * DAY, handed(OTHER, reference="r")))
    assert await found(history, nameless("r")) == [(OTHER, "shop", 3)]
    assert await found(Recorded((NOW, handed())), nameless("r")) == [(DELIVERY, "shop", 3)]


async def test_only_what_the_receipts_that_are_not_matched_yet_name_is_looked_for() -> None:
    history = Recorded((NOW, handed(reference="r")))
    receipts = [nameless("r", None), nameless("", "ADA@Example.com"), nameless("s", ""), receipt(reference="known")]
    await found(history, *receipts)
    assert [(references, addresses) for _, references, addresses, _, _ in history.asked] == [
        ({"r", "s"}, {"ada@example.com"}),
        ({"s"}, {"ada@example.com"}),
        ({"s"}, {"ada@example.com"}),
    ]


async def test_what_was_found_before_the_history_went_away_is_kept() -> None:
    history = Recorded((NOW, handed(reference="r")), (NOW - DAY, handed(OTHER, reference="s")))
    history.answers = 1
    assert await found(history, nameless("s"), nameless("r")) == [(DELIVERY, "shop", 3)]


def test_a_receipt_becomes_a_fact() -> None:
    said = receipt(
        kind="clicked",
        attempt=3,
        at=NOW - DAY,
        reason="why",
        detail="more",
        reference="r",
        address="ada@example.com",
        suppress=True,
    )
    fact = outcome_of(said, "one", Channel.EMAIL, NOW)
    assert (fact.id, fact.tenant, fact.at, fact.state, fact.attempt) == (DELIVERY, "shop", NOW - DAY, State.SENT, 3)
    assert (fact.step, fact.reason, fact.provider, fact.reference, fact.detail) == (2, "why", "one", "r", "more")
    assert (fact.address, fact.suppress) == (Address(Channel.EMAIL, "ada@example.com"), True)


@pytest.mark.parametrize("state", list(State))
def test_a_receipt_reports_only_states_that_a_vendor_can_know(state: State) -> None:
    known = {State.SENT, State.DELIVERED, State.FAILED}
    assert outcome_of(receipt(state=state), "one", Channel.SMS, NOW).state is (state if state in known else State.SENT)


@pytest.mark.parametrize(
    ("told", "believed"),
    [(-1, 1), (0, 1), (1, 1), (2, 2), (MOST - 1, MOST - 1), (MOST, 1), (1 << 40, 1)],
)
def test_an_attempt_number_that_cannot_be_is_not_believed(told: int, believed: int) -> None:
    assert outcome_of(receipt(attempt=told), "one", Channel.SMS, NOW).attempt == believed


@pytest.mark.parametrize(
    ("told", "recorded"),
    [(-1, NOW), (0, NOW), (1, 1), (NOW - PROMPT_MS - 1, NOW - PROMPT_MS - 1), (NOW - PROMPT_MS, NOW), (NOW + 1, NOW)],
)
def test_a_prompt_receipt_and_one_without_a_time_have_the_time_of_our_clock(told: int, recorded: int) -> None:
    assert outcome_of(receipt(at=told), "one", Channel.SMS, NOW).at == recorded


@pytest.mark.parametrize(
    ("state", "kind", "is_return"),
    [
        (State.FAILED, "bounced", True),
        (State.FAILED, "blocked", True),
        (State.FAILED, "failed", False),
        (State.SENT, "bounced", False),
        (State.DELIVERED, "blocked", False),
    ],
)
def test_only_a_failure_that_says_that_the_mail_came_back_begins_a_new_life(
    state: State, kind: str, is_return: bool
) -> None:
    fact = outcome_of(receipt(state=state, kind=kind, attempt=2), "one", Channel.EMAIL, NOW)
    assert fact.attempt == (ATTEMPTS_PER_LIFE + 2 if is_return else 2)


def test_what_a_person_does_with_a_mail_are_facts_of_their_own() -> None:
    kinds = ["delivered", "opened", "clicked", "replied", "complained", "unsubscribed"]
    facts = [outcome_of(receipt(kind=kind), "one", Channel.EMAIL, NOW) for kind in kinds]
    assert [fact.step for fact in facts] == [0, 1, 2, 3, 4, 5]
    assert [fact.reason for fact in facts] == kinds, "the kind is the reason if the vendor gives none"


def test_no_address_is_suppressed_unless_the_receipt_names_it_and_says_so() -> None:
    for suppress, address in ((True, None), (False, "ada@example.com")):
        fact = outcome_of(receipt(suppress=suppress, address=address), "one", Channel.EMAIL, NOW)
        assert not fact.suppress
        assert (fact.address is None) == (address is None)


def test_the_texts_of_a_receipt_are_cut() -> None:
    endless = "x" * 5_000
    said = receipt(reason=endless, reference=endless, detail=endless, address=endless)
    fact = outcome_of(said, "one", Channel.EMAIL, NOW)
    assert fact.address is not None
    lengths = [len(text) for text in (fact.reason, fact.reference, fact.detail, fact.address.value)]
    assert lengths == [MOST_REASON, MOST_REFERENCE, MOST_DETAIL, MOST_REFERENCE]
