"""A delivery of which a test says only what it is about."""

from __future__ import annotations

from typing import Any

from tidings.model.delivery import Delivery
from tidings.model.ids import delivery_id, new_id
from tidings.model.user import Address
from tidings.model.vocabulary import Channel, Priority


def make_delivery(number: int = 1, at: int = 1, **fields: Any) -> Delivery:
    """An SMS of the notification with this number that was accepted `at` this instant, for nobody who is known."""
    known: dict[str, Any] = {
        "id": delivery_id(new_id(at, 0, number), 2),
        "tenant": "shop",
        "user_id": None,
        "key": "shop/x",
        "address": Address(Channel.SMS, "+4915123456789"),
        "category": "orders",
        "priority": Priority.NORMAL,
    }
    return Delivery(**(known | fields))
