"""Which delivery a receipt is about that names none."""

from __future__ import annotations

from uuid import UUID

import pytest

from tidings.model.sending import Handed
from tidings.policy.matching import match


def handed(number: int, reference: str = "", address: str = "ada@example.com", attempt: int = 1) -> Handed:
    return Handed(UUID(int=number), "shop", attempt, reference, address)


@pytest.mark.parametrize(
    ("reference", "address", "known", "number"),
    [
        ("r1", "ada@example.com", [handed(1, "r1")], 1),
        ("r1", "ADA@Example.com", [handed(1, "r1"), handed(2, "r1", "bob@example.com")], 1),
        ("r1", "", [handed(1, "r1")], 1),
        ("r1", "", [handed(1, "r1"), handed(2, "r1", "bob@example.com")], None),
        ("r1", "eve@example.com", [handed(1, "r1")], None),
        ("r1", "ada@example.com", [handed(1, "r1"), handed(2, "r2")], 1),
        ("foreign", "ada@example.com", [handed(1, "r1")], None),
        ("late", "ada@example.com", [handed(1)], 1),
        ("late", "ada@example.com", [handed(1), handed(1, "r1")], None),
        ("late", "ada@example.com", [handed(1, "r1", attempt=1), handed(1, attempt=2)], 1),
        ("", "ada@example.com", [handed(1, "r1")], 1),
        ("", "ada@example.com", [handed(1, "r1"), handed(1, "r1", attempt=2)], 1),
        ("", "ada@example.com", [handed(1, "r1"), handed(2, "r2")], None),
        ("", "", [handed(1, "", "")], None),
        ("", "ada@example.com", [], None),
    ],
)
def test_a_receipt_matches_the_only_delivery_that_fits(
    reference: str, address: str, known: list[Handed], number: int | None
) -> None:
    found = match(reference, address, known)
    assert (None if found is None else found.delivery_id.int) == number


def test_a_receipt_is_about_the_last_attempt() -> None:
    found = match("", "ada@example.com", [handed(1, "r2", attempt=2), handed(1, "r1", attempt=1)])
    assert found is not None
    assert found.attempt == 2
