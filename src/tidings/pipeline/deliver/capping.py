"""The last check before a delivery is sent: room under its user's caps, and in the dedupe window of its address."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import msgspec

from tidings.model.delivery import Delivery
from tidings.model.ids import notification_of
from tidings.model.outcome import Outcome
from tidings.model.user import Cap, Category
from tidings.model.vocabulary import Excess, Reason, State
from tidings.pipeline.deliver.attempts import fact, hold, uncertain_if_doubtful
from tidings.pipeline.runtime.categories import Categories
from tidings.policy.addresses import identity, person_of
from tidings.policy.caps import Count, Over
from tidings.ports.caps import Caps

EVERYTHING = "*"
"""The category whose caps count the notifications of all categories that are not critical."""

_DIGEST_BYTES = 16
_encoder = msgspec.msgpack.Encoder()


class Capping:
    """Counts deliveries under caps and dedupe windows: one request per batch, none if nothing in it has either.

    Ask after every other check that may stop or hold a delivery: only what is about to be sent may be counted.
    """

    def __init__(self, caps: Caps, categories: Categories) -> None:
        self._caps = caps
        self._categories = categories

    async def refused(self, deliveries: Sequence[Delivery], now: int) -> Mapping[int, Outcome]:
        """The outcomes of the deliveries that must not be sent now, by place in `deliveries`.

        The categories of their tenants must be loaded. Every attempt asks, because the caps count when a person gets a
        notification, not when it was first tried. Raises Unavailable.
        """
        asking = [
            (place, delivery, counts) for place, delivery in enumerate(deliveries) if (counts := self._counts(delivery))
        ]
        if not asking:
            return {}
        verdicts = await self._caps.take([counts for _, _, counts in asking], now)
        return {
            place: _outcome(delivery, counts[over.place], over, now)
            for (place, delivery, counts), over in zip(asking, verdicts, strict=True)
            if over is not None
        }

    def _counts(self, delivery: Delivery) -> list[Count]:
        """The scopes that count the delivery. The dedupe window comes first: duplicates are reported as such."""
        category = self._categories.get(delivery.tenant, delivery.category)
        counts = []
        if category.dedupe:
            counts.append(Count(_content(delivery), delivery.id, (Cap(1, category.dedupe),)))
        capping = [category] if category.caps else []
        if not category.critical and (everything := self._categories.get(delivery.tenant, EVERYTHING)).caps:
            capping.append(everything)
        counts += [
            Count(_person(delivery, by), notification_of(delivery.id), by.caps, by.excess is Excess.HOLD)
            for by in capping
        ]
        return counts


def _outcome(delivery: Delivery, count: Count, over: Over, now: int) -> Outcome:
    if count.id == delivery.id:
        detail = f"the same went to this address less than {over.cap.seconds} s before"
        return uncertain_if_doubtful(delivery, fact(delivery, now, State.SUPPRESSED, Reason.DUPLICATE, detail=detail))
    if count.holds and (delivery.expires_at is None or over.due < delivery.expires_at):
        return hold(delivery, now, over.due, Reason.CAPPED)
    state = State.EXPIRED if count.holds else State.SUPPRESSED
    detail = f"at most {over.cap.count} in {over.cap.seconds} s"
    return uncertain_if_doubtful(delivery, fact(delivery, now, state, Reason.CAPPED, detail=detail))


def _person(delivery: Delivery, by: Category) -> bytes:
    """The scope in which the caps of `by` count a user's (or an inline recipient's) notifications.

    The incarnation keeps the notifications of a deleted user apart from those of the next user with the same id. An
    inline recipient is the same person in every spelling of the address.
    """
    if delivery.user_id is None:
        address = delivery.key.removeprefix(f"{delivery.tenant}/")
        return _scope("person", delivery.tenant, by.name, False, f"{delivery.tenant}/{person_of(address)}")
    incarnation = (delivery.incarnation,) if delivery.incarnation else ()
    return _scope("person", delivery.tenant, by.name, True, delivery.user_id, *incarnation)


def _content(delivery: Delivery) -> bytes:
    """The scope of this content at this address. Compares the text or template and the data, before rendering."""
    said = getattr(delivery.content, delivery.channel.value) if delivery.content is not None else delivery.template
    return _scope("content", delivery.tenant, identity(delivery.address), said, delivery.data)


def _scope(*parts: object) -> bytes:
    return hashlib.blake2b(_encoder.encode(parts), digest_size=_DIGEST_BYTES).digest()
