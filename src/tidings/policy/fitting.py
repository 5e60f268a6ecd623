"""What providers answer, made fit to be judged and recorded: here it enters, and nothing behind it need be careful."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from tidings.model.sending import About, Rejected, Retry, SendResult, Sent, Uncertain
from tidings.model.texts import fit

MOST_DETAIL = 2_000
"""Characters of a vendor's explanation that are kept."""
MOST_REFERENCE = 1_000
MOST_REASON = 100


def fitting(results: Sequence[Any]) -> list[SendResult]:
    """The results with texts that can be recorded. What is no result at all tells nothing: it is Uncertain."""
    # One object may stand for many deliveries, and says so by being one.
    fitted: dict[int, SendResult] = {}
    for result in results:
        if id(result) not in fitted:
            fitted[id(result)] = _fitting(result)
    return [fitted[id(result)] for result in results]


def _fitting(result: Any) -> SendResult:
    if isinstance(result, Sent):
        reference = fit(result.reference, MOST_REFERENCE)
        if reference is result.reference and isinstance(result.delivered, bool):
            return result
        return Sent(reference, bool(result.delivered))
    if not isinstance(result, Retry | Rejected | Uncertain):
        return Uncertain("provider_error", fit(f"the provider answered {result!r}", MOST_DETAIL))
    told = replace(result, reason=fit(result.reason, MOST_REASON), detail=fit(result.detail, MOST_DETAIL))
    if isinstance(told, Retry):
        is_number = isinstance(told.after, int | float) and not isinstance(told.after, bool)
        told = told if is_number or told.after is None else replace(told, after=None)
        return told if isinstance(told.about, About) else replace(told, about=None)
    if isinstance(told, Rejected):
        return replace(told, suppress=bool(told.suppress), fallback=bool(told.fallback))
    return told
