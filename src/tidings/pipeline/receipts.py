"""What a vendor reports later, as a fact of ours."""

from __future__ import annotations

from tidings.model.outcome import Outcome
from tidings.model.sending import Receipt
from tidings.model.texts import fit
from tidings.model.user import Address
from tidings.model.vocabulary import Channel, State
from tidings.pipeline.fitting import MOST_DETAIL, MOST_REASON, MOST_REFERENCE
from tidings.policy.transitions import ATTEMPTS_PER_LIFE, returned

PROMPT = 5_000
"""Milliseconds. Vendors date their receipts in whole seconds; one that comes at once is dated by our own clock."""

_MOST_ATTEMPT = 20 * ATTEMPTS_PER_LIFE
"""A vendor gives back what we gave it, or anything: nothing comes back twenty times."""

_CAME_BACK = frozenset({"bounced", "blocked"})
"""Kinds by which a server gives back what it may have taken, and reported as delivered, before."""

_STEPS = {"opened": 1, "clicked": 2, "replied": 3, "complained": 4, "unsubscribed": 5}


def outcome_of(receipt: Receipt, provider: str, channel: Channel, now: int) -> Outcome:
    """The fact that a receipt tells, at `now` (milliseconds since the epoch)."""
    state = receipt.state if receipt.state in {State.SENT, State.DELIVERED, State.FAILED} else State.SENT
    attempt = receipt.attempt if 0 < receipt.attempt < _MOST_ATTEMPT else 1
    return Outcome(
        id=receipt.delivery_id,
        tenant=receipt.tenant,
        at=receipt.at if 0 < receipt.at < now - PROMPT else now,
        state=state,
        attempt=returned(attempt) if state is State.FAILED and receipt.kind in _CAME_BACK else attempt,
        step=_STEPS.get(receipt.kind, 0),
        reason=fit(receipt.reason or receipt.kind, MOST_REASON),
        provider=provider,
        reference=fit(receipt.reference, MOST_REFERENCE),
        detail=fit(receipt.detail, MOST_DETAIL),
        address=None if receipt.address is None else Address(channel, fit(receipt.address, MOST_REFERENCE)),
        suppress=receipt.suppress and receipt.address is not None,
    )
