"""Which delivery a receipt is about that names none: by the vendor's reference, then by the address."""

from __future__ import annotations

from collections.abc import Sequence

from tidings.model.sending import Handed


def match(reference: str, address: str, handed: Sequence[Handed]) -> Handed | None:
    """The last attempt of the one delivery that it must be; None when it may be none, or one of several.

    Many deliveries may share a reference, and then the address tells them apart. The address alone counts only where a
    reference cannot: the receipt has none, or none was recorded. Else somebody else's mail to that person would be
    taken for ours. An empty text is one that the vendor does not tell.
    """
    to_it = [one for one in handed if address and one.address.lower() == address.lower()]
    under_it = [one for one in handed if reference and one.reference == reference]
    if under_it:
        return _only([one for one in under_it if one in to_it] if address else under_it)
    return _only([one for one in to_it if not reference or not _has_reference(one, to_it)])


def _has_reference(one: Handed, handed: Sequence[Handed]) -> bool:
    """Whether that attempt is known under a reference."""
    same = (other for other in handed if (other.delivery_id, other.attempt) == (one.delivery_id, one.attempt))
    return any(other.reference for other in same)


def _only(handed: Sequence[Handed]) -> Handed | None:
    if len({one.delivery_id for one in handed}) != 1:
        return None
    return max(handed, key=lambda one: one.attempt)
