"""Turning vendors' receipts into facts."""

from __future__ import annotations

from collections.abc import Sequence

import structlog
from msgspec.structs import replace

from tidings.model.errors import Unavailable
from tidings.model.outcome import Outcome
from tidings.model.sending import NAMELESS, Handed, Receipt
from tidings.model.texts import fit
from tidings.model.user import Address
from tidings.model.vocabulary import Channel, State
from tidings.policy.fitting import MOST_DETAIL, MOST_REASON, MOST_REFERENCE
from tidings.policy.matching import match
from tidings.policy.transitions import ATTEMPTS_PER_LIFE, came_back
from tidings.ports.history import History

_log = structlog.get_logger("tidings.receipts")
_STRETCHES_MS = (3_600_000, 86_400_000, 3 * 86_400_000)
"""How far back to look for the delivery that a receipt is about, one stretch after the other."""

PROMPT_MS = 5_000
"""Vendors date receipts in whole seconds. A receipt younger than this gets the time of our own clock."""

_MOST_ATTEMPT = 20 * ATTEMPTS_PER_LIFE
"""The highest attempt number to believe. A vendor should return the number that it got, but may send anything."""

_CAME_BACK = frozenset({"bounced", "blocked"})
"""Kinds of receipts that say that a mail came back, even if it was reported as delivered before."""

_STEPS = {"opened": 1, "clicked": 2, "replied": 3, "complained": 4, "unsubscribed": 5}


async def matched(receipts: Sequence[Receipt], provider: str, history: History, now: int) -> list[Receipt]:
    """The receipts with the ids of their deliveries. Receipts that match no delivery are left out."""
    known = [receipt for receipt in receipts if receipt.delivery_id != NAMELESS]
    nameless = [receipt for receipt in receipts if receipt.delivery_id == NAMELESS]
    until = now + PROMPT_MS
    handed: list[Handed] = []
    for stretch_ms in _STRETCHES_MS:
        if not nameless:
            break
        since = now - stretch_ms
        references = {receipt.reference for receipt in nameless} - {""}
        addresses = {receipt.address.lower() for receipt in nameless if receipt.address}
        try:
            handed += await history.handed(provider, references, addresses, since, until)
        except Unavailable as error:
            _log.warning("receipts without a name were not matched", provider=provider, why=str(error))
            break
        until, is_last = since, stretch_ms == _STRETCHES_MS[-1]
        unmatched: list[Receipt] = []
        for receipt in nameless:
            delivery = match(receipt.reference, receipt.address or "", handed)
            # Until the last stretch only a match by reference counts: the address may match another delivery, too.
            if delivery is not None and (is_last or (receipt.reference and delivery.reference == receipt.reference)):
                known.append(
                    replace(receipt, delivery_id=delivery.delivery_id, tenant=delivery.tenant, attempt=delivery.attempt)
                )
            else:
                unmatched.append(receipt)
        nameless = unmatched
    return known


def outcome_of(receipt: Receipt, provider: str, channel: Channel, now: int) -> Outcome:
    """The fact that a receipt reports. `now`: milliseconds since the epoch."""
    state = receipt.state if receipt.state in {State.SENT, State.DELIVERED, State.FAILED} else State.SENT
    attempt = receipt.attempt if 0 < receipt.attempt < _MOST_ATTEMPT else 1
    return Outcome(
        id=receipt.delivery_id,
        tenant=receipt.tenant,
        at=receipt.at if 0 < receipt.at < now - PROMPT_MS else now,
        state=state,
        attempt=came_back(attempt) if state is State.FAILED and receipt.kind in _CAME_BACK else attempt,
        step=_STEPS.get(receipt.kind, 0),
        reason=fit(receipt.reason or receipt.kind, MOST_REASON),
        provider=provider,
        reference=fit(receipt.reference, MOST_REFERENCE),
        detail=fit(receipt.detail, MOST_DETAIL),
        address=None if receipt.address is None else Address(channel, fit(receipt.address, MOST_REFERENCE)),
        suppress=receipt.suppress and receipt.address is not None,
    )
