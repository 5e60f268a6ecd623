"""Makes providers' results safe to judge and record, so that no later code has to distrust them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from tidings.model.sending import About, Rejected, Retry, SendResult, Sent, Uncertain
from tidings.model.texts import fit

MOST_DETAIL = 2_000
"""How many characters of a vendor's explanation are kept."""
MOST_REFERENCE = 1_000
MOST_REASON = 100


def fitting(results: Sequence[Any]) -> list[SendResult]:
    """The results, with texts that can be recorded. An object that is no result becomes Uncertain."""
    # A provider may give one object for many deliveries: keep it one object.
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
    fitted = replace(result, reason=fit(result.reason, MOST_REASON), detail=fit(result.detail, MOST_DETAIL))
    if isinstance(fitted, Retry):
        is_number = isinstance(fitted.after_s, int | float) and not isinstance(fitted.after_s, bool)
        fitted = fitted if is_number or fitted.after_s is None else replace(fitted, after_s=None)
        return fitted if isinstance(fitted.about, About) else replace(fitted, about=None)
    if isinstance(fitted, Rejected):
        return replace(fitted, suppress=bool(fitted.suppress), fallback=bool(fitted.fallback))
    return fitted
