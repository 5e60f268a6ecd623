"""What may forbid sending, in one look-up: the people, the suppression list and the cancellations.

Adapters raise `Unavailable` when the database does not answer.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from collections.abc import Set as AbstractSet
from typing import Protocol
from uuid import UUID

from msgspec import Struct

from tidings.model.user import Address
from tidings.model.vocabulary import Channel
from tidings.ports.users import Person, UserKey

NO_SUPPRESSIONS: Mapping[tuple[str, Address], str] = {}
NO_CANCELLATIONS: AbstractSet[UUID] = frozenset()
NO_PEOPLE: Mapping[UserKey, Person] = {}


class Standing(Struct, frozen=True, gc=False):
    """How users, addresses and notifications stand at one instant.

    - `people`: profiles, preferences and incarnations of the users that were asked for. Unknown users are absent.
    - `suppressed`: those of the `(tenant, address)` that are on the suppression list, with the reason.
    - `cancelled`: those of the notifications that are marked as cancelled.
    """

    people: Mapping[UserKey, Person] = NO_PEOPLE
    suppressed: Mapping[tuple[str, Address], str] = NO_SUPPRESSIONS
    cancelled: AbstractSet[UUID] = NO_CANCELLATIONS


class Standings(Protocol):
    """Looks up what may forbid sending."""

    async def look_up(
        self,
        users: Collection[UserKey] = (),
        addresses: Collection[tuple[str, Address]] = (),
        notifications: Collection[UUID] = (),
    ) -> Standing:
        """How these users, addresses and notifications stand.

        The suppression list knows an address by its identity (policy/addresses.py): any spelling finds it.
        """
        ...


def suppressible(addresses: Iterable[tuple[str, Address]]) -> set[tuple[str, Address]]:
    """Those of the `(tenant, address)` that can be on the suppression list: all but inboxes."""
    return {(tenant, address) for tenant, address in addresses if address.channel is not Channel.INAPP}
