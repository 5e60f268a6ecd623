"""Finds the delivery of a receipt that names none: by the vendor's reference, then by the address."""

from __future__ import annotations

from collections.abc import Sequence

from tidings.model.sending import Handed


def match(reference: str, address: str, handed: Sequence[Handed]) -> Handed | None:
    """The last attempt of the one delivery that fits the receipt; None when none fits, or several do.

    Several deliveries may share a reference; then the address tells them apart. The address alone decides only if the
    receipt has no reference or none was recorded; otherwise a receipt about another sender's mail to that person would
    match. "" means that the vendor does not tell.
    """
    same_address = [fact for fact in handed if address and fact.address.lower() == address.lower()]
    same_reference = [fact for fact in handed if reference and fact.reference == reference]
    if same_reference:
        return _only([fact for fact in same_reference if fact in same_address] if address else same_reference)
    return _only([fact for fact in same_address if not reference or not _has_reference(fact, same_address)])


def _has_reference(fact: Handed, handed: Sequence[Handed]) -> bool:
    """Whether a reference is recorded for the attempt that `fact` is about."""
    same = (other for other in handed if (other.delivery_id, other.attempt) == (fact.delivery_id, fact.attempt))
    return any(other.reference for other in same)


def _only(handed: Sequence[Handed]) -> Handed | None:
    """The fact of the last attempt if all facts are about one delivery, else None."""
    if len({fact.delivery_id for fact in handed}) != 1:
        return None
    return max(handed, key=lambda fact: fact.attempt)
